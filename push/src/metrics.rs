//! What operators watch, in Prometheus's text form.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::held;
use crate::hub::Hub;

/// Counters of the push layer. Clones count together.
#[derive(Clone, Default)]
pub struct Metrics {
    /// WebSocket sessions now.
    pub sessions: Gauge,
    /// Subscriptions now, over all sessions.
    pub subscriptions: Gauge,
    /// Messages sent to clients.
    pub messages_sent: Counter,
    /// Bytes that the sockets of sessions took: frames, with their headers, compressed if they are.
    pub bytes_sent: Counter,
    /// Messages received from clients.
    pub messages_received: Counter,
    /// Sessions that were ended because the client did not take what it was sent in time.
    pub stalled: Counter,
    /// Connections that were ended early because the client took nothing, and others needed the memory.
    pub shed: Counter,
    /// Connections and requests that were refused: origin, host, too many.
    pub refused: Counter,
}

impl Metrics {
    /// A page for Prometheus; `more` is appended by whoever knows the rest of the program.
    #[must_use]
    pub fn page(&self, hub: &Arc<Hub>, more: &dyn Fn(&mut Registry)) -> String {
        let mut registry = Registry::with_prefix("deltafront");
        registry.register("sessions", "WebSocket sessions now", self.sessions.clone());
        registry.register("subscriptions", "Subscriptions now", self.subscriptions.clone());
        registry.register("messages_sent", "Messages sent to clients", self.messages_sent.clone());
        registry.register("bytes_sent", "Bytes of messages sent to clients", self.bytes_sent.clone());
        registry.register("messages_received", "Messages received from clients", self.messages_received.clone());
        registry.register("sessions_stalled", "Sessions ended because the client took too long", self.stalled.clone());
        registry.register(
            "connections_shed",
            "Connections ended early since the client took nothing and too much was held for such clients",
            self.shed.clone(),
        );
        let held = i64::try_from(held::bytes()).unwrap_or(i64::MAX);
        gauge(&mut registry, "held_bytes", "Bytes of messages that wait for clients", held);
        registry.register("connections_refused", "Connections and requests refused", self.refused.clone());
        let stamp = hub.stamp();
        gauge(
            &mut registry,
            "epoch",
            "The epoch that is visible now",
            i64::try_from(stamp.epoch.0).unwrap_or(i64::MAX),
        );
        gauge(&mut registry, "commit_time_microseconds", "Commit time of the epoch, since 1970 UTC", stamp.commit_time);
        let rows = prometheus_client::metrics::family::Family::<Vec<(String, String)>, Gauge>::default();
        for (projection, count) in hub.projections().iter().zip(hub.row_counts()) {
            rows.get_or_create(&vec![("projection".to_owned(), projection.name.clone())]).set(count);
        }
        registry.register("projection_rows", "Rows of each projection", rows);
        let ready = prometheus_client::metrics::family::Family::<Vec<(String, String)>, Gauge>::default();
        for (projection, is_ready) in hub.projections().iter().zip(hub.are_ready()) {
            ready.get_or_create(&vec![("projection".to_owned(), projection.name.clone())]).set(is_ready.into());
        }
        registry.register("projection_ready", "1 once the tables that the projection reads have been copied", ready);
        more(&mut registry);
        let mut page = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut page, &registry);
        page
    }
}

/// Registers a number of this moment.
pub fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;

    use crate::hub::Stamp;
    use crate::testing::{not_ready, publish, stamp};

    #[test]
    fn the_page_tells_of_sessions_and_of_the_hub() {
        let hub = not_ready(1 << 20);
        publish(&hub, 1, "+2bag(5,x) +bag(6,y)");
        hub.publish(Stamp { commit_time: 951_827_696_500_000, ..stamp(2) }, Vec::new()).expect("nothing");
        let metrics = Metrics::default();
        let counted = metrics.clone();
        counted.sessions.inc();
        counted.bytes_sent.inc_by(120);
        let page = metrics.page(&hub, &|registry| gauge(registry, "sources", "Sources of the project", 3));
        // Other tests hold bytes as well.
        let is_told = |line: &&str| !line.starts_with('#') && !line.contains("held_bytes");
        let mut values: Vec<&str> = page.lines().filter(is_told).collect();
        values.sort_unstable();
        expect![[r#"
            deltafront_bytes_sent_total 120
            deltafront_commit_time_microseconds 951827696500000
            deltafront_connections_refused_total 0
            deltafront_connections_shed_total 0
            deltafront_epoch 2
            deltafront_messages_received_total 0
            deltafront_messages_sent_total 0
            deltafront_projection_ready{projection="bag"} 1
            deltafront_projection_ready{projection="keyed"} 0
            deltafront_projection_rows{projection="bag"} 3
            deltafront_projection_rows{projection="keyed"} 0
            deltafront_sessions 1
            deltafront_sessions_stalled_total 0
            deltafront_sources 3
            deltafront_subscriptions 0
        "#]]
        .assert_eq(&(values.join("\n") + "\n"));
        assert!(
            page.contains("# HELP deltafront_sources Sources of the project.\n") && page.ends_with("# EOF\n"),
            "{page}"
        );
    }
}
