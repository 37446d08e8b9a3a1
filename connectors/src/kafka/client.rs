//! What librdkafka is told, and what it says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, ProducerContext};

use crate::format::registry::agent;

use super::error::redacted;

/// How long a server may take to answer a question.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client is looked after at a time while it waits for a token.
const TOKEN_POLL: Duration = Duration::from_millis(50);
/// How often at most a client's complaints go to the log.
const SAID_INTERVAL: Duration = Duration::from_secs(10);
/// How long is listened to what a client has to say about why it got no answer.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What the properties of tokens begin with.
const TOKENS: &str = "sasl.oauthbearer.";

/// What is set here and nowhere else, by all of its names: positions would not be ours. Source of the names: librdkafka's
/// CONFIGURATION.md.
pub const OWN: [&str; 9] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.auto.commit",
    "auto.commit.enable",
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
        // Tokens are got by us: librdkafka would need libcurl for it.
        let is_ours =
            |name: &str| name.starts_with(TOKENS) && name != "sasl.oauthbearer.config" || name == "https.ca.location";
        for (name, value) in self.properties.iter().filter(|(name, _)| !is_ours(name)) {
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
        self.has_its_files()?;
        let context = Context::of(self);
        let (has_token, wants_token) = (Arc::clone(&context.has_token), context.tokens.is_some());
        let no_token = Arc::clone(&context.no_token);
        let consumer: BaseConsumer<Context> = self.for_reading().create_with_context(context)?;
        // It asks for a token when it is looked after, and answers no question before it has one.
        let asked = Instant::now();
        while wants_token && !has_token.load(Ordering::Relaxed) && asked.elapsed() < ANSWER_TIMEOUT {
            let _ = consumer.poll(TOKEN_POLL);
            if let Some(reason) = &*no_token.lock().unwrap_or_else(PoisonError::into_inner) {
                return Err(KafkaError::ClientCreation(reason.clone()));
            }
        }
        Ok(consumer)
    }

    /// Why a client that reads nothing yet got no answer.
    #[must_use]
    pub fn why(&self, consumer: &BaseConsumer<Context>, error: KafkaError) -> KafkaError {
        let asked = Instant::now();
        while asked.elapsed() < LAST_WORDS {
            let _ = consumer.poll(TOKEN_POLL);
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure) => {
                consumer.context().last_error().unwrap_or(error)
            }
            _ => error,
        }
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
    ) -> KafkaResult<BaseProducer<C>> {
        self.has_its_files()?;
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

    /// That the files of TLS are there: of one that is not librdkafka says neither which nor what it is for.
    fn has_its_files(&self) -> KafkaResult<()> {
        let is_file = |name: &str| name.starts_with("ssl.") && name.ends_with(".location");
        for (name, path) in self.properties.iter().filter(|(name, _)| is_file(name)) {
            // `probe` lets librdkafka look for authorities itself.
            if path != "probe" && !Path::new(path).exists() {
                return Err(KafkaError::ClientCreation(format!("'{name}' names {path}, which is not there")));
            }
        }
        Ok(())
    }

    /// Whether librdkafka takes what a project says.
    ///
    /// # Errors
    /// With what it says.
    pub fn check(&self) -> KafkaResult<()> {
        self.for_reading().create_native_config().map(|_| ())
    }
}

/// Takes what librdkafka says to our log, and gets it tokens for OAUTHBEARER.
#[derive(Clone, Default)]
pub struct Context {
    tokens: Option<Arc<TokenEndpoint>>,
    last: Arc<Mutex<Option<KafkaError>>>,
    said: Arc<Mutex<Option<Instant>>>,
    has_token: Arc<AtomicBool>,
    /// Why there is no token.
    no_token: Arc<Mutex<Option<String>>>,
}

/// Where tokens are to be had, by the client credentials grant (RFC 6749, section 4.4).
struct TokenEndpoint {
    url: String,
    client: String,
    secret: String,
    scope: Option<String>,
    authorities: Option<PathBuf>,
}

impl Context {
    /// That of a cluster's clients.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Context {
        let property = |name: &str| cluster.properties.get(&format!("{TOKENS}{name}")).cloned();
        let tokens = property("token.endpoint.url").map(|url| {
            Arc::new(TokenEndpoint {
                url,
                client: property("client.id").unwrap_or_default(),
                secret: property("client.secret").unwrap_or_default(),
                scope: property("scope"),
                authorities: cluster.properties.get("https.ca.location").map(PathBuf::from),
            })
        });
        Context { tokens, ..Context::default() }
    }

    /// Once in a while: a client whose brokers are away says so at each of its attempts.
    fn is_worth_saying(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long_ago = said.is_none_or(|said| said.elapsed() > SAID_INTERVAL);
        if is_long_ago {
            *said = Some(Instant::now());
        }
        is_long_ago
    }

    /// What librdkafka last said of itself, which tells more than that nobody answered.
    #[must_use]
    pub fn last_error(&self) -> Option<KafkaError> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

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

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if self.is_worth_saying() {
            tracing::info!("librdkafka: {error}: {}", redacted(reason));
        }
        let says_more = !matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure)
        );
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if says_more || last.is_none() {
            *last = Some(error);
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(endpoint) = &self.tokens else {
            return Err("OAUTHBEARER needs 'sasl.oauthbearer.token.endpoint.url'".into());
        };
        let token = endpoint.token().inspect_err(|error| {
            tracing::warn!("can't get a token: {error}");
            *self.no_token.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        })?;
        *self.no_token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.has_token.store(true, Ordering::Relaxed);
        Ok(token)
    }
}

impl ConsumerContext for Context {}

/// What an endpoint answers (RFC 6749, section 5.1).
#[derive(serde::Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u32>,
}

/// For how long a token is good whose endpoint does not say.
const TOKEN_TIME: u32 = 300;
/// Bytes of an endpoint's answer.
const TOKEN_BYTES_MAX: u64 = 256 << 10;

impl TokenEndpoint {
    fn token(&self) -> Result<OAuthToken, String> {
        let agent = agent(self.authorities.as_ref(), ANSWER_TIMEOUT).map_err(|error| error.to_string())?;
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", self.client, self.secret));
        let mut answer = agent
            .post(&self.url)
            .header("authorization", format!("Basic {credentials}"))
            .header("accept", "application/json")
            .send_form(form)
            .map_err(|error| format!("the token endpoint does not answer: {error}"))?;
        if !answer.status().is_success() {
            return Err(format!("the token endpoint answers {}", answer.status()));
        }
        let body = answer.body_mut().with_config().limit(TOKEN_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| format!("the token endpoint's answer broke off: {error}"))?;
        let granted: Granted =
            serde_json::from_slice(&body).map_err(|_| "the token endpoint's answer has no access_token".to_owned())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let expires = now + u128::from(granted.expires_in.unwrap_or(TOKEN_TIME)) * 1000;
        Ok(OAuthToken {
            token: granted.access_token,
            principal_name: self.client.clone(),
            lifetime_ms: i64::try_from(expires).unwrap_or(i64::MAX),
        })
    }
}
