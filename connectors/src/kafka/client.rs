//! What librdkafka is told, and what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::producer::ProducerContext;
use rdkafka::{ClientContext, producer};

use super::error::redacted;

/// How long a server may take to answer a question.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is set here and nowhere else: positions would not be ours.
pub const OWN: [&str; 7] = [
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "transactional.id",
    "enable.idempotence",
];

/// Those of a cluster, as a project names it: brokers, security, and what else is for librdkafka.
#[derive(Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Host and port, several with commas between.
    pub brokers: String,
    /// Passed on to librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl Cluster {
    fn config(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", "deltafront");
        config.set("reconnect.backoff.max.ms", "2000").set("log.connection.close", "false");
        config.set("metadata.recovery.strategy", "rebootstrap");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    fn for_reading(&self) -> ClientConfig {
        let mut config = self.config(&[
            ("isolation.level", "read_committed"),
            // What has been fetched and not read yet: bounded, and enough to keep us busy.
            ("queued.max.messages.kbytes", "32768"),
            ("queued.min.messages", "100000"),
            // Full, it asks again soon; a second, as by default, would be a pause.
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "100"),
            ("topic.metadata.refresh.interval.ms", "30000"),
            ("topic.metadata.propagation.max.ms", "5000"),
        ]);
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        // Never a silent jump.
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
        config
    }

    /// A client that reads.
    ///
    /// # Errors
    /// When librdkafka does not take what it is told; nobody has been asked yet.
    pub fn consumer(&self) -> KafkaResult<BaseConsumer<Context>> {
        self.for_reading().create_with_context(Context::of(self))
    }

    /// What writes. `more` is set last.
    ///
    /// # Errors
    /// As [`Cluster::consumer`].
    pub fn producer<C: ProducerContext>(
        &self,
        context: C,
        defaults: &[(&str, &str)],
        more: &[(&str, &str)],
    ) -> KafkaResult<producer::BaseProducer<C>> {
        let mut config = self.config(defaults);
        // Those of reading are none of writing's, and librdkafka says so at length.
        for name in ["isolation.level", "group.id"] {
            config.remove(name);
        }
        for (name, value) in more {
            config.set(*name, *value);
        }
        config.create_with_context(context)
    }

    /// Whether librdkafka takes what a project says.
    ///
    /// # Errors
    /// With what it says.
    pub fn check(&self) -> KafkaResult<()> {
        self.for_reading().create_native_config().map(|_| ())
    }
}

/// Takes what librdkafka says to our log, and gets tokens for OAUTHBEARER.
#[derive(Clone, Default)]
pub struct Context {
    tokens: Option<TokenEndpoint>,
}

#[derive(Clone)]
struct TokenEndpoint {
    url: String,
    client: String,
    secret: String,
    scope: Option<String>,
}

impl Context {
    /// That of a cluster's clients.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Context {
        let property = |name: &str| cluster.properties.get(name).cloned();
        let tokens = property("sasl.oauthbearer.token.endpoint.url").map(|url| TokenEndpoint {
            url,
            client: property("sasl.oauthbearer.client.id").unwrap_or_default(),
            secret: property("sasl.oauthbearer.client.secret").unwrap_or_default(),
            scope: property("sasl.oauthbearer.scope"),
        });
        Context { tokens }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = false;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = redacted(message);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Warning => tracing::info!(facility, "librdkafka: {message}"),
            _ => tracing::debug!(facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        tracing::info!("librdkafka: {error}: {}", redacted(reason));
    }
}

impl ConsumerContext for Context {}
