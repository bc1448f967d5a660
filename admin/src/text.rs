//! The two text formats that scrapers read: OpenMetrics 1.0 and, for who does not ask for it,
//! Prometheus 0.0.4, where a family is named like its sample, with `_total`, and knows no `info`.

use std::fmt;

use prometheus_client::encoding;
use prometheus_client::registry::Registry;

/// How an exposition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// What an `Accept` header asks for.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Everything in the registry.
    ///
    /// # Errors
    /// A collector gave up.
    pub(crate) fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encoding::text::encode(&mut text, registry)?;
        Ok(match self {
            Self::OpenMetrics => text,
            Self::Prometheus => to_prometheus(&text),
        })
    }
}

fn to_prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // `# HELP` comes first, but only `# TYPE` says that the family is a counter.
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let (first, keyword) = (words.next(), words.next());
        let (name, rest) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        match (first, keyword) {
            (Some("#"), Some("HELP")) => help = Some(rest),
            (Some("#"), Some("TYPE")) => {
                let (suffix, kind) = match rest {
                    "counter" => ("_total", rest),
                    "info" => ("_info", "gauge"),
                    _ => ("", rest),
                };
                let help = help.take().unwrap_or_default();
                out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
                out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), _) => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::with_prefix("p");
        registry.register("a", "First of all", Counter::<u64>::default());
        registry.register("b_bytes", "Second", Gauge::<i64>::default());
        registry.register("c", "Third", Info::new([("d", "e")]));
        registry
    }

    #[test]
    fn each_format_names_counters_its_own_way() {
        assert_eq!(
            Format::OpenMetrics.encode(&registry()).unwrap(),
            "# HELP p_a First of all.\n# TYPE p_a counter\np_a_total 0\n\
             # HELP p_b_bytes Second.\n# TYPE p_b_bytes gauge\np_b_bytes 0\n\
             # HELP p_c Third.\n# TYPE p_c info\np_c_info{d=\"e\"} 1\n# EOF\n"
        );
        assert_eq!(
            Format::Prometheus.encode(&registry()).unwrap(),
            "# HELP p_a_total First of all.\n# TYPE p_a_total counter\np_a_total 0\n\
             # HELP p_b_bytes Second.\n# TYPE p_b_bytes gauge\np_b_bytes 0\n\
             # HELP p_c_info Third.\n# TYPE p_c_info gauge\np_c_info{d=\"e\"} 1\n"
        );
    }

    #[test]
    fn open_metrics_is_for_who_asks() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for plain in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(Format::accepted(plain), Format::Prometheus);
        }
    }
}
