//! A client of a schema registry: Confluent's API, which others (Apicurio, Karapace, Redpanda) speak as well.
//!
//! ```text
//!  message ──► 0, id, body ──► SchemaSource::schema(id) ──► Schema, with what it refers to
//!                                   │ known: for ever; unknown: for a second
//!                                   └─► GET /schemas/ids/{id}, /subjects/{subject}/versions/{version}
//! ```
//!
//! An id never changes its meaning, so what was found is kept. What was not found may be registered a
//! moment later, so it is only believed for [`MISS_TIME`]. A registry that does not answer is no fault of a
//! message: the message is kept and asked for again.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::FormatError;

/// How long one request may take.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);

/// How long an unknown id is taken as unknown without another question.
pub const MISS_TIME: Duration = Duration::from_secs(1);

/// An answer is not read further; Confluent's own limit for a schema is 1 MB.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// More schemas than these are not gathered for one: somebody refers in circles, or means harm.
const REFERENCES_MAX: usize = 256;

/// Unknown ids that are remembered; above that the expired ones are forgotten.
const MISSES_MAX: usize = 10_000;

/// What language a schema is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Avro's JSON.
    Avro,
    /// A `.proto` file, or the base64 of its descriptor.
    Protobuf,
    /// JSON Schema.
    Json,
}

/// A schema and what it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// What it is written in.
    pub language: Language,
    /// Its text.
    pub text: String,
    /// The schemas that it refers to, by the name it gives them; each only refers to earlier ones.
    pub references: Vec<(String, String)>,
}

/// Why there is no schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaError {
    /// There is none, or none that can be used. What it belongs to can't be read.
    Bad(String),
    /// It can't be had now. To be tried again.
    Unavailable(String),
}

/// Where schemas come from.
pub trait SchemaSource: Send {
    /// The schema that messages name by this number.
    ///
    /// # Errors
    /// When there is none, or it can't be had now.
    fn schema(&self, id: u32) -> Result<Arc<Schema>, SchemaError>;

    /// The newest schema of the subject; `None` when there is no subject.
    ///
    /// # Errors
    /// When it can't be had now.
    fn latest(&self) -> Result<Option<Arc<Schema>>, SchemaError>;
}

/// Takes the five bytes before each message of Confluent's serializers off: a zero, and the number of
/// the schema, most significant byte first.
///
/// # Errors
/// With what is wrong with the message.
pub fn framed(payload: &[u8]) -> Result<(u32, &[u8]), String> {
    match payload {
        [0, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        [] => Err("it is empty; a schema registry's number is to come first".to_owned()),
        [0, ..] => Err(format!("it ends within the number of its schema: {} bytes", payload.len())),
        [first, ..] => Err(format!("it begins with byte {first}, not with 0 and the number of a schema")),
    }
}

/// Splits failures into those of a message and those of the registry.
pub(crate) fn or_bad<T>(found: Result<T, SchemaError>) -> Result<Result<T, String>, FormatError> {
    match found {
        Ok(found) => Ok(Ok(found)),
        Err(SchemaError::Bad(reason)) => Ok(Err(reason)),
        Err(SchemaError::Unavailable(reason)) => Err(FormatError::Registry(reason)),
    }
}

/// How to reach a registry.
#[derive(Clone, Default)]
pub struct RegistryOptions {
    /// Its addresses, `http://[user:password@]host[:port][/path]` or `https://…`. They are asked in turn.
    pub urls: Vec<String>,
    /// User and password, for addresses that have none themselves.
    pub basic: Option<(String, String)>,
    /// A bearer token, instead of them.
    pub token: Option<String>,
    /// A PEM file with the authorities to trust; Mozilla's otherwise.
    pub authorities: Option<PathBuf>,
    /// How long a request may take; [`REQUEST_TIME`] otherwise.
    pub timeout: Option<Duration>,
}

/// An option that can't be used. The text never has a user or a password in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryOptionError {
    /// There must be one.
    #[error("a schema registry needs an address")]
    NoAddress,
    /// The address itself is not told: its password would be.
    #[error("address {0} of the schema registry is not of the form http[s]://[user:password@]host[:port][/path]")]
    BadAddress(usize),
    /// Neither user nor token may hold control characters, nor a user a colon.
    #[error("the schema registry's user, password or token has characters that can't be sent")]
    BadCredentials,
    /// The file can't be read or holds no certificate.
    #[error("{} has no certificates that can be read", .0.display())]
    BadAuthorities(PathBuf),
}

/// A registry. Clones share what they know.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    agent: ureq::Agent,
    bases: Vec<Base>,
    /// The one that answered last.
    first: AtomicUsize,
    known: Mutex<Known>,
    miss_time: Duration,
}

struct Base {
    /// Without user, password and the last slash.
    url: String,
    authorization: Option<String>,
}

#[derive(Default)]
struct Known {
    schemas: HashMap<u32, Arc<Schema>>,
    /// Ids without a schema that can be used: when that was found, and why.
    misses: HashMap<u32, (Instant, String)>,
    /// Names that are looked for among subjects, as they were last found.
    latest: HashMap<String, (Instant, Option<Arc<Schema>>)>,
}

/// What the registry says of a schema.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

/// What the registry says when it has nothing.
#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
}

impl Registry {
    /// A registry; nothing is asked yet.
    ///
    /// # Errors
    /// When an option can't be used.
    pub fn new(options: &RegistryOptions) -> Result<Registry, RegistryOptionError> {
        Registry::with_miss_time(options, MISS_TIME)
    }

    fn with_miss_time(options: &RegistryOptions, miss_time: Duration) -> Result<Registry, RegistryOptionError> {
        if options.urls.is_empty() {
            return Err(RegistryOptionError::NoAddress);
        }
        let given = match (&options.token, &options.basic) {
            (Some(token), _) => Some(format!("Bearer {token}")),
            (None, Some((user, _))) if user.contains(':') => return Err(RegistryOptionError::BadCredentials),
            (None, Some((user, password))) => Some(basic(user.as_bytes(), password.as_bytes())),
            (None, None) => None,
        };
        if given.iter().any(|given| given.bytes().any(|byte| !(0x20..0x7f).contains(&byte))) {
            return Err(RegistryOptionError::BadCredentials);
        }
        let mut bases = Vec::with_capacity(options.urls.len());
        for (place, url) in options.urls.iter().enumerate() {
            bases.push(base(url, given.as_ref()).ok_or(RegistryOptionError::BadAddress(place + 1))?);
        }
        let agent = agent(options.authorities.as_ref(), options.timeout.unwrap_or(REQUEST_TIME))?;
        let (first, known) = (AtomicUsize::new(0), Mutex::default());
        Ok(Registry { shared: Arc::new(Shared { agent, bases, first, known, miss_time }) })
    }

    /// As the source of the schemas of a subject, `topic-value` or `topic-key` as a rule.
    #[must_use]
    pub fn subject(&self, subject: &str) -> Subject {
        Subject { registry: self.clone(), subject: subject.to_owned() }
    }

    /// The schema of an id, with what it refers to.
    ///
    /// # Errors
    /// When there is none, or the registry does not answer.
    pub fn schema(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        {
            let known = self.known();
            if let Some(schema) = known.schemas.get(&id) {
                return Ok(Arc::clone(schema));
            }
            if let Some((_, reason)) = known.misses.get(&id).filter(|(at, _)| at.elapsed() < self.shared.miss_time) {
                return Err(SchemaError::Bad(reason.clone()));
            }
        }
        let found = match self.get(&format!("/schemas/ids/{id}")) {
            Ok(Some(answer)) => self.whole(answer).map(Arc::new),
            Ok(None) => Err(SchemaError::Bad(format!("the schema registry has no schema {id}"))),
            Err(error) => Err(error),
        };
        let mut known = self.known();
        match &found {
            Ok(schema) => {
                known.misses.remove(&id);
                known.schemas.insert(id, Arc::clone(schema));
            }
            Err(SchemaError::Bad(reason)) => {
                if known.misses.len() >= MISSES_MAX {
                    known.misses.retain(|_, (at, _)| at.elapsed() < self.shared.miss_time);
                }
                known.misses.insert(id, (Instant::now(), reason.clone()));
            }
            Err(SchemaError::Unavailable(_)) => {}
        }
        found
    }

    /// The newest schema of a subject, believed for [`MISS_TIME`]; `None` when there is no such subject.
    ///
    /// # Errors
    /// When the registry does not answer, or what it refers to is not there.
    pub fn latest(&self, subject: &str) -> Result<Option<Arc<Schema>>, SchemaError> {
        if let Some((at, found)) = self.known().latest.get(subject)
            && at.elapsed() < self.shared.miss_time
        {
            return Ok(found.clone());
        }
        let answer = self.get(&format!("/subjects/{}/versions/latest", escaped(subject)))?;
        let found = answer.map(|answer| self.whole(answer)).transpose()?.map(Arc::new);
        self.known().latest.insert(subject.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is one insertion, so it is whole even if somebody panicked with it.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A schema with what it refers to, those first that others refer to.
    fn whole(&self, answer: Answer) -> Result<Schema, SchemaError> {
        let language = match answer.schema_type.as_deref() {
            None | Some("AVRO") => Language::Avro,
            Some("PROTOBUF") => Language::Protobuf,
            Some("JSON") => Language::Json,
            Some(other) => return Err(SchemaError::Bad(format!("its schema is of the unknown type {other:?}"))),
        };
        let mut references = Vec::new();
        let mut seen = HashSet::new();
        // Depth first without recursion: a schema is taken after all that it refers to.
        enum Todo {
            Ask(Reference),
            Take(String, String),
        }
        let asked =
            |references: Option<Vec<Reference>>| references.unwrap_or_default().into_iter().rev().map(Todo::Ask);
        let mut todo: Vec<Todo> = asked(answer.references).collect();
        while let Some(next) = todo.pop() {
            match next {
                Todo::Take(name, text) => references.push((name, text)),
                Todo::Ask(Reference { name, subject, version }) => {
                    if !seen.insert(name.clone()) {
                        continue;
                    }
                    if seen.len() > REFERENCES_MAX {
                        return Err(SchemaError::Bad(format!(
                            "its schema refers to more than {REFERENCES_MAX} others"
                        )));
                    }
                    // One that was deleted since is still what the schema was written with.
                    let path = format!("/subjects/{}/versions/{version}?deleted=true", escaped(&subject));
                    let answer = self.get(&path)?.ok_or_else(|| {
                        SchemaError::Bad(format!(
                            "its schema refers to version {version} of {subject}, which is not there"
                        ))
                    })?;
                    todo.push(Todo::Take(name, answer.schema));
                    todo.extend(asked(answer.references));
                }
            }
        }
        Ok(Schema { language, text: answer.schema, references })
    }

    /// Asks one address after the other, beginning with the one that answered last. `None` when the
    /// registry says that it has no such thing.
    fn get(&self, path: &str) -> Result<Option<Answer>, SchemaError> {
        let bases = &self.shared.bases;
        let first = self.shared.first.load(Ordering::Relaxed);
        let mut failures = String::new();
        for place in (first..first + bases.len()).map(|place| place % bases.len()) {
            match self.get_from(&bases[place], path) {
                Ok(answer) => {
                    self.shared.first.store(place, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(reason) => {
                    let separator = if failures.is_empty() { "" } else { "; " };
                    let _ = write!(failures, "{separator}{}: {reason}", bases[place].url);
                }
            }
        }
        Err(SchemaError::Unavailable(failures))
    }

    fn get_from(&self, base: &Base, path: &str) -> Result<Option<Answer>, String> {
        let accept = "application/vnd.schemaregistry.v1+json, application/json";
        let mut request = self.shared.agent.get(format!("{}{path}", base.url)).header("Accept", accept);
        if let Some(authorization) = &base.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.call().map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| error.to_string())?;
        match status {
            200 => serde_json::from_slice(&body).map(Some).map_err(|_| "its answer is no schema".to_owned()),
            // A proxy's or a wrong path's 404 says nothing of the schema.
            404 => match serde_json::from_slice::<Refusal>(&body) {
                Ok(Refusal { error_code: 40401..=40403 }) => Ok(None),
                _ => Err("it answers with status 404 and without a registry's reason; is the path right?".to_owned()),
            },
            401 | 403 => Err(format!("it answers with status {status}: user, password or token are not what it wants")),
            _ => Err(format!("it answers with status {status}")),
        }
    }
}

/// The schemas of a registry, and of those the ones of a subject.
pub struct Subject {
    registry: Registry,
    subject: String,
}

impl SchemaSource for Subject {
    fn schema(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        self.registry.schema(id)
    }

    fn latest(&self) -> Result<Option<Arc<Schema>>, SchemaError> {
        self.registry.latest(&self.subject)
    }
}

/// Reads an address; `None` for one that can't be read.
fn base(url: &str, given: Option<&String>) -> Option<Base> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "http" | "https") || rest.contains(['?', '#']) {
        return None;
    }
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let url = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
    let uri: ureq::http::Uri = url.parse().ok()?;
    uri.host().filter(|host| !host.is_empty())?;
    let authorization = match user {
        None => given.cloned(),
        Some(user) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            Some(basic(&unescaped(user)?, &unescaped(password)?))
        }
    };
    Some(Base { url, authorization })
}

/// RFC 7617.
fn basic(user: &[u8], password: &[u8]) -> String {
    format!("Basic {}", STANDARD.encode([user, b":", password].concat()))
}

/// A client of HTTP that trusts these authorities, or Mozilla's.
///
/// # Errors
/// When the file of authorities can't be used.
pub(crate) fn agent(authorities: Option<&PathBuf>, timeout: Duration) -> Result<ureq::Agent, RegistryOptionError> {
    // The provider is named: the process has two, and rustls would not choose between them.
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .root_certs(roots(authorities)?)
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        // Redirects would take the credentials elsewhere.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("deltafront/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}

fn roots(authorities: Option<&PathBuf>) -> Result<RootCerts, RegistryOptionError> {
    let Some(path) = authorities else { return Ok(RootCerts::WebPki) };
    let bad = || RegistryOptionError::BadAuthorities(path.clone());
    let pem = std::fs::read(path).map_err(|_| bad())?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| bad())? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(bad());
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// A subject as a part of a path (RFC 3986): all but the unreserved characters escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut found = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        found.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    Some(found)
}

#[cfg(test)]
pub(crate) mod tests;
