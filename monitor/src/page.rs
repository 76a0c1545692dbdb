//! One answer to a scrape: metrics with their values at this moment, written as OpenMetrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::process;

/// Names and values of a metric's labels.
pub type Labels = Vec<(&'static str, String)>;

/// Labels from text.
pub fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Labels {
    labels.map(|(name, value)| (name, value.to_owned())).into()
}

/// Metrics of one moment; names get the prefix `hydrometer_`.
#[derive(Debug)]
pub struct Page {
    own: Registry,
}

impl Page {
    /// A page without metrics.
    pub fn new() -> Self {
        Self { own: Registry::with_prefix("hydrometer") }
    }

    /// Adds what only rises while the program runs; its name gets the suffix `_total`.
    pub fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).inc_by(value);
        }
        self.own.register(name, help, family);
    }

    /// Adds what rises and falls.
    pub fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(value);
        }
        self.own.register(name, help, family);
    }

    /// What a scrape is answered with: these metrics and those of the process.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode_registry(&mut text, &self.own);
        let _ = text::encode_registry(&mut text, &process::registry());
        let _ = text::encode_eof(&mut text);
        text
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}
