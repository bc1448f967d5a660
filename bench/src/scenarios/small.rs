//! Many small uploads.

use anyhow::Result;

use super::compare;
use crate::Args;
use crate::payload::Payload;
use crate::servers::{Kind, Running};
use crate::table::Table;

const LENGTH: u64 = 10 << 10;

pub(crate) fn run(args: &Args, whole: bool) -> Result<()> {
    let payload = Payload::new();
    let mut kinds = vec![
        Kind::Ingest("none"),
        Kind::Tusd,
        Kind::Rustus,
        Kind::Tussi(true),
        Kind::TusNode,
        Kind::Ingest("on-finish"),
        Kind::Ingest("every-patch"),
    ];
    if whole {
        kinds.retain(|kind| !matches!(kind, Kind::Tussi(_)));
    }
    for connections in [1, 16, 64] {
        let each = (6000 / args.divide).div_ceil(connections);
        let count = each * connections;
        let mut table = Table::default();
        let work = |running: &Running| {
            std::thread::scope(|scope| {
                let senders: Vec<_> = (0..connections)
                    .map(|_| scope.spawn(|| send(running, &payload, each, whole)))
                    .collect();
                senders.into_iter().try_for_each(super::joined)
            })?;
            Ok(Vec::new())
        };
        let verify = |running: &Running| running.verify(&payload, count, LENGTH);
        compare(args, &kinds, 4, &mut table, work, verify)?;
        let how = if whole {
            "creation-with-upload"
        } else {
            "create + PATCH"
        };
        let title = format!("Small: {count} × 10 KiB, {how}, {connections} connections");
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        table.print(&title, count as f64, "upload", "tusd 2.10.0");
    }
    Ok(())
}

fn send(running: &Running, payload: &Payload, count: u64, whole: bool) -> Result<()> {
    let mut client = running.client()?;
    for _ in 0..count {
        if whole {
            client.create_with(running.base(), payload, LENGTH)?;
        } else {
            running.send(&mut client, payload, LENGTH, LENGTH, 0)?;
        }
    }
    Ok(())
}
