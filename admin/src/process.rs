//! The metrics that every Prometheus client has of its own process, under their usual names.

use std::fmt;
use std::time::SystemTime;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::stock::one;

/// This process, by procfs.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    started: SystemTime,
}

impl ProcessMetrics {
    pub(crate) fn new() -> Self {
        Self {
            started: SystemTime::now(),
        }
    }
}

/// The fields of `/proc/self/stat` that are of interest.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// Fields are counted after the name, which may itself hold blanks and parentheses.
fn parse(stat: &str) -> Option<Stat> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = after_name.split(' ').collect();
    // proc_pid_stat(5): utime is field 14, and the first one here is field 3.
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut out: DescriptorEncoder) -> fmt::Result {
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH);
        let started = started.unwrap_or_default().as_secs_f64();
        one(
            &mut out,
            "process_start_time_seconds",
            "When the process started",
            started,
        )?;
        if let Some(stat) = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .as_deref()
            .and_then(parse)
        {
            let cpu = stat.cpu_ticks as f64 / system(SysconfVar::CLK_TCK, 100.0);
            let help = "CPU time used, in user and kernel mode.";
            ConstCounter::new(cpu).encode(out.encode_descriptor(
                "process_cpu_seconds",
                help,
                None,
                MetricType::Counter,
            )?)?;
            let resident = stat.resident_pages as f64 * system(SysconfVar::PAGE_SIZE, 4096.0);
            one(
                &mut out,
                "process_resident_memory_bytes",
                "Memory in RAM",
                resident,
            )?;
            let virtual_bytes = stat.virtual_bytes as f64;
            one(
                &mut out,
                "process_virtual_memory_bytes",
                "Address space",
                virtual_bytes,
            )?;
        }
        if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
            // One of them lists the others.
            let open = descriptors.count().saturating_sub(1);
            one(
                &mut out,
                "process_open_fds",
                "File descriptors in use",
                open as f64,
            )?;
        }
        use nix::sys::resource::{Resource, getrlimit};
        match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((soft, _)) => one(
                &mut out,
                "process_max_fds",
                "File descriptors allowed",
                soft as f64,
            ),
            Err(_) => Ok(()),
        }
    }
}

fn system(variable: SysconfVar, otherwise: f64) -> f64 {
    sysconf(variable)
        .ok()
        .flatten()
        .map_or(otherwise, |value| value as f64)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::text::Format;

    #[test]
    fn a_name_with_blanks_and_parentheses_moves_no_field() {
        let numbers: Vec<_> = (4..=52).map(|n| n.to_string()).collect();
        let line = format!("17 (a b) (c) R {}\n", numbers.join(" "));
        let expected = Stat {
            cpu_ticks: 14 + 15,
            virtual_bytes: 23,
            resident_pages: 24,
        };
        assert_eq!(parse(&line), Some(expected));
        assert_eq!(parse("17 (x) R 1 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new()));
        let text = Format::Prometheus.encode(&registry).unwrap();
        for name in [
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")));
            let value: f64 = line
                .unwrap_or_else(|| panic!("{name} in {text}"))
                .rsplit(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert!(0.0 <= value);
        }
    }
}
