//! Large bodies.

use anyhow::Result;

use super::{Row, compare};
use crate::Args;
use crate::payload::Payload;
use crate::servers::{Kind, Running};
use crate::sink::Sync;
use crate::table::Work;

const ALL: [Kind; 10] = [
    Kind::Sink(Sync::Never),
    Kind::Ingest("none"),
    Kind::Nginx,
    Kind::Tusd,
    Kind::Rustus,
    Kind::Tussi(false),
    Kind::Sink(Sync::Answer),
    Kind::Sink(Sync::Paced),
    Kind::Ingest("every-patch"),
    Kind::Ingest("on-finish"),
];

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

pub(crate) fn one_patch(args: &Args) -> Result<()> {
    let length = (4 << 30) / args.divide;
    run(args, "Big: one PATCH", &ALL, 1, length, length)
}

pub(crate) fn patches(args: &Args) -> Result<()> {
    let length = (4 << 30) / args.divide;
    let kinds: Vec<Kind> = ALL
        .into_iter()
        .filter(|kind| *kind != Kind::Nginx)
        .collect();
    run(
        args,
        "Big: PATCHes of 8 MiB (the sink and nginx in one piece)",
        &kinds,
        1,
        length,
        8 << 20,
    )
}

pub(crate) fn sixteen(args: &Args) -> Result<()> {
    let length = (256 << 20) / args.divide;
    run(
        args,
        "Big: 16 connections, one PATCH each",
        &ALL,
        16,
        length,
        length,
    )
}

fn run(
    args: &Args,
    title: &str,
    kinds: &[Kind],
    connections: u64,
    length: u64,
    chunk: u64,
) -> Result<()> {
    let payload = Payload::new();
    let total = length * connections;
    let work = |running: &Running| {
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..connections)
                .map(|name| {
                    let payload = &payload;
                    scope.spawn(move || {
                        running.send(&mut running.client()?, payload, length, chunk, name)
                    })
                })
                .collect();
            senders.into_iter().try_for_each(super::joined)
        })
    };
    let row = |&kind: &Kind| Row {
        name: kind.name(),
        kind,
        work: Box::new(work),
    };
    let rows: Vec<Row> = kinds.iter().map(row).collect();
    let verify = |running: &Running| running.verify(&payload, connections, length);
    let table = compare(args, &rows, 4 + total.div_ceil(1 << 30) * 2, verify)?;
    let title = format!("{title} ({:.2} GiB in all)", gib(total));
    let work = Work {
        units: gib(total),
        unit: "GiB",
        per_second: 1.0,
        time: "s",
    };
    table.print(
        &title,
        work,
        &[
            "sink",
            "sink fdatasync",
            "sink fdatasync, paced",
            "tusd 2.10.0",
        ],
    );
    Ok(())
}
