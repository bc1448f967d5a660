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
    /// Further figures by name, with their unit in the name.
    pub(crate) more: Vec<(&'static str, f64)>,
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

    /// Prints the table; `units` of work per run turn CPU seconds into CPU per unit.
    pub(crate) fn print(&self, title: &str, units: f64, unit: &str, reference: &str) {
        println!("## {title}\n");
        let more: Vec<&str> = self
            .rows
            .values()
            .flatten()
            .next()
            .map_or(Vec::new(), |figures| {
                figures.more.iter().map(|(name, _)| *name).collect()
            });
        let mut heads = vec![
            "server".to_owned(),
            format!("CPU µs/{unit} median"),
            "min".to_owned(),
            format!("× {reference}"),
            "wall s".to_owned(),
            "peak RSS MiB".to_owned(),
            format!("flushes/{unit}"),
        ];
        heads.extend(more.iter().map(|name| (*name).to_owned()));
        println!("| {} |", heads.join(" | "));
        println!("|{}", "---|".repeat(heads.len()));
        let cpu = |figures: &Figures| figures.cpu.as_secs_f64() * 1e6 / units;
        let base = self.rows.get(reference).map(|rounds| median(rounds, cpu));
        for row in &self.order {
            let rounds = &self.rows[row];
            let middle = median(rounds, cpu);
            let least = rounds.iter().map(cpu).fold(f64::INFINITY, f64::min);
            let ratio = base.map_or("–".to_owned(), |base| format!("{:.2}", middle / base));
            let mut cells = vec![
                row.clone(),
                figure(middle),
                figure(least),
                ratio,
                format!("{:.2}", median(rounds, |f| f.wall.as_secs_f64())),
                format!("{:.1}", median(rounds, |f| f.rss_peak_kib as f64 / 1024.0)),
                figure(median(rounds, |f| f.flushes as f64 / units)),
            ];
            for index in 0..more.len() {
                cells.push(figure(median(rounds, |f| {
                    f.more.get(index).map_or(f64::NAN, |m| m.1)
                })));
            }
            println!("| {} |", cells.join(" | "));
        }
        println!(
            "\n{} rounds each, interleaved.\n",
            self.rows.values().map(Vec::len).max().unwrap_or(0)
        );
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
