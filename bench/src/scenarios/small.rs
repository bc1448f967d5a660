//! Many small uploads.

use anyhow::Result;

use super::{Row, compare};
use crate::Args;
use crate::payload::Payload;
use crate::servers::{Kind, Running};
use crate::table::Work;

const LENGTH: u64 = 10 << 10;

const ALL: [Kind; 9] = [
    Kind::Steps(false),
    Kind::Ingest("none"),
    Kind::Tusd,
    Kind::Rustus,
    Kind::Tussi(true),
    Kind::TusNode,
    Kind::Steps(true),
    Kind::Ingest("on-finish"),
    Kind::Ingest("every-patch"),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let payload = Payload::new();
    for &connections in &args.connections {
        // Alone, each waits for every sync of its own: fewer do.
        let all = if connections == 1 { 1500 } else { 6000 };
        let each = (all / args.divide).div_ceil(connections).max(1);
        let count = each * connections;
        let row = |kind: Kind, whole: bool| {
            let payload = &payload;
            Row {
                name: kind.name() + if whole { ", one request" } else { "" },
                kind,
                work: Box::new(move |running| send(running, payload, connections, each, whole)),
            }
        };
        let whole = ALL.iter().filter(|kind| kind.creates_with_upload());
        let rows: Vec<Row> = (ALL.iter().map(|&kind| row(kind, false)))
            .chain(whole.map(|&kind| row(kind, true)))
            .collect();
        let verify = |running: &Running| running.verify(&payload, count, LENGTH);
        let table = compare(args, &rows, 4, verify)?;
        let title = format!(
            "Small: {count} × 10 KiB, create + PATCH or in one request, {connections} connections"
        );
        let work = Work {
            units: count as f64,
            unit: "upload",
            per_second: 1e6,
            time: "µs",
        };
        table.print(
            &title,
            work,
            &["ingest", "sink", "sink synced", "tusd 2.10.0", "rustus"],
        );
    }
    Ok(())
}

/// `each` uploads on each of as many connections.
fn send(
    running: &Running,
    payload: &Payload,
    connections: u64,
    each: u64,
    whole: bool,
) -> Result<()> {
    let sender = || {
        let mut client = running.client()?;
        for _ in 0..each {
            if whole {
                client.create_with(running.base(), payload, LENGTH)?;
            } else {
                running.send(&mut client, payload, LENGTH, LENGTH, 0)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..connections).map(|_| scope.spawn(sender)).collect();
        senders.into_iter().try_for_each(super::joined)
    })
}
