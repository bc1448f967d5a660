//! Rows of figures: median and minimum of the rounds.

use std::collections::BTreeMap;
use std::time::Duration;

/// One run's figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) rss_peak_kib: u64,
    pub(crate) flushes: u64,
}

/// All rounds of one scenario, by row in the order of their first appearance.
#[derive(Default)]
pub(crate) struct Table {
    order: Vec<String>,
    rows: BTreeMap<String, Vec<Figures>>,
}

impl Table {
    pub(crate) fn add(&mut self, row: &str, figures: Figures) {
        if !self.rows.contains_key(row) {
            self.order.push(row.to_owned());
        }
        self.rows.entry(row.to_owned()).or_default().push(figures);
    }

    /// Prints the table with CPU time and flushes per unit of work, and each row's CPU time in
    /// relation to the rows named in `references`.
    pub(crate) fn print(&self, title: &str, work: Work, references: &[&str]) {
        println!("## {title}\n");
        let references: Vec<&str> = references
            .iter()
            .copied()
            .filter(|reference| self.rows.contains_key(*reference))
            .collect();
        let per = |figures: &Figures| figures.cpu.as_secs_f64() * work.per_second / work.units;
        println!("| {} |", work.heads(&references).join(" | "));
        println!("|---|{}", "--:|".repeat(6 + references.len()));
        for row in &self.order {
            let rounds = &self.rows[row];
            let middle = median(rounds, per);
            let least = rounds.iter().map(per).fold(f64::INFINITY, f64::min);
            let mut cells = vec![row.clone(), figure(middle), figure(least)];
            cells.extend(references.iter().map(|reference| {
                let base = median(&self.rows[*reference], per);
                format!("{:.2}", middle / base)
            }));
            cells.push(format!("{:.2}", median(rounds, |f| f.wall.as_secs_f64())));
            let mib = |f: &Figures| f.rss_peak_kib as f64 / 1024.0;
            cells.push(format!("{:.1}", median(rounds, mib)));
            let flushes = |f: &Figures| f.flushes as f64 / work.units;
            cells.push(figure(median(rounds, flushes)));
            println!("| {} |", cells.join(" | "));
        }
        let rounds = self.rows.values().map(Vec::len).max().unwrap_or(0);
        println!("\n{rounds} rounds, interleaved; medians unless it says min.\n");
    }
}

/// What a run does, and in what its CPU time is told.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) units: f64,
    pub(crate) unit: &'static str,
    /// Of the time's unit per second.
    pub(crate) per_second: f64,
    pub(crate) time: &'static str,
}

impl Work {
    fn heads(&self, references: &[&str]) -> Vec<String> {
        let mut heads = vec!["server".to_owned()];
        heads.push(format!("CPU {}/{}", self.time, self.unit));
        heads.push("min".to_owned());
        heads.extend(references.iter().map(|reference| format!("× {reference}")));
        heads.extend(["wall s", "peak RSS MiB"].map(str::to_owned));
        heads.push(format!("flushes/{}", self.unit));
        heads
    }
}

fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn median(rounds: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    percentile(rounds.iter().map(of).collect(), 0.5)
}

/// The value below which a share of the values lies.
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = ((values.len().saturating_sub(1)) as f64 * share).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
