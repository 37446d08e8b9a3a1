//! `deltafront.toml`: what is not SQL.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use filter::ClaimPath;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use toml::Spanned;

use crate::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile};
use crate::options::{self, Environment};

/// The longest that diffs can be made to wait for one another.
pub(crate) const BATCH_MAX: Duration = Duration::from_secs(24 * 3600);
pub(crate) const BATCH_TOO_LONG: &str = "clients are told at least once in 24 hours";
const ISSUER_HELP: &str =
    "write issuer = \"https://id.example/\"; when it is left out, tokens of everybody who has the key are taken";
const AUDIENCE_HELP: &str =
    "write audience = \"live\"; when it is left out, tokens that name an audience are meant for somebody else";
/// Characters that a token for administrators needs.
const ADMIN_TOKEN_CHARS_MIN: usize = 16;

/// The whole file. Every part may be left out.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[project]`
    pub project: ProjectConfig,
    /// `[server]`
    pub server: ServerConfig,
    /// `[auth]`; without it nobody can say who they are.
    pub auth: Option<AuthConfig>,
    /// `[limits]`
    pub limits: LimitsConfig,
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    project: ProjectConfig,
    server: ServerConfig,
    auth: Option<RawAuth>,
    limits: LimitsConfig,
}

/// `[project]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectConfig {
    /// Names publications, slots and the page; the folder's name when left out.
    pub name: Option<String>,
    /// Files and folders, relative to the project, whose `.sql` files are not the project's (the
    /// DDL of a database, say).
    pub exclude: Vec<String>,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where to listen. Loopback unless told otherwise.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// Web origins besides the server's own whose pages may connect, such as
    /// `https://shop.example`.
    pub allowed_origins: Vec<String>,
    /// Names besides the loopback ones under which a browser may reach the server, wherever it
    /// listens: `shop.example`, `shop.example:8443`, `*.shop.example`.
    pub allowed_hosts: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

/// `[auth]`: how clients prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// Where the keys are that tokens are checked with; `None` when no tokens are taken.
    pub keys: Option<KeysConfig>,
    /// How tokens may be signed; all that are known when empty.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Whose tokens are taken; everybody's who has the key when empty.
    pub issuers: Vec<String>,
    /// What this server is called in tokens; when empty, only tokens that name nobody are taken.
    pub audiences: Vec<String>,
    /// By how much the issuer's clock and ours may differ.
    pub clock_skew: Duration,
    /// Whether tokens must expire.
    pub expiry_required: bool,
    /// The longest that a token may be valid.
    pub lifetime_max: Option<Duration>,
    /// The claim that says which roles the subject has; see [`filter::access::roles`].
    pub role_claim: ClaimPath,
    /// The cookie in which a token may be.
    pub cookie: Option<String>,
    /// How long a session goes on after its token has expired, for the client to send a new one.
    pub grace: Duration,
    /// What administrators say to prove that they are; without it nobody is.
    pub admin_token: Option<Secret>,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysConfig {
    /// `secret`: for HS256.
    Secret(Secret),
    /// `secret_file`: a file with that.
    SecretFile(PathBuf),
    /// `key_file`: public keys as PEM, or a JWK or JWKS.
    File(PathBuf),
    /// `jwks_url`
    Address {
        /// Answers with a JWKS.
        url: String,
        /// `jwks_ca_file`: authorities for the address's certificate, in place of Mozilla's.
        authorities: Option<PathBuf>,
    },
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with a secret.
    HS256,
    /// RSA.
    RS256,
    /// ECDSA on P-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// A text that logs and messages do not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `[auth]` as written: its texts may have variables of the environment in them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAuth {
    secret: Option<Spanned<String>>,
    secret_file: Option<Spanned<String>>,
    key_file: Option<Spanned<String>>,
    jwks_url: Option<Spanned<String>>,
    jwks_ca_file: Option<Spanned<String>>,
    algorithms: Option<Spanned<Vec<TokenAlgorithm>>>,
    issuer: Option<OneOrMany>,
    audience: Option<OneOrMany>,
    #[serde(deserialize_with = "duration")]
    clock_skew: Duration,
    expiry_required: bool,
    #[serde(deserialize_with = "lifetime")]
    lifetime_max: Option<Duration>,
    role_claim: Spanned<String>,
    cookie: Option<Spanned<String>>,
    #[serde(deserialize_with = "duration")]
    grace: Duration,
    admin_token: Option<Spanned<String>>,
}

impl Default for RawAuth {
    fn default() -> RawAuth {
        RawAuth {
            secret: None,
            secret_file: None,
            key_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            algorithms: None,
            issuer: None,
            audience: None,
            clock_skew: Duration::from_secs(60),
            expiry_required: true,
            lifetime_max: None,
            role_claim: Spanned::new(0..0, "role".to_owned()),
            cookie: None,
            grace: Duration::from_secs(30),
            admin_token: None,
        }
    }
}

/// A text, or a list of texts, and where it stands.
struct OneOrMany(Spanned<Vec<String>>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "write a text or a list of texts")]
        enum Written {
            One(String),
            Many(Vec<String>),
        }
        let written = Spanned::<Written>::deserialize(deserializer)?;
        let span = written.span();
        let texts = match written.into_inner() {
            Written::One(text) => vec![text],
            Written::Many(texts) => texts,
        };
        Ok(OneOrMany(Spanned::new(span, texts)))
    }
}

/// `[limits]`: what clients may take. `docs/operating.md` says what happens at each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections at a time.
    #[serde(deserialize_with = "count")]
    pub connections: usize,
    /// Connections at a time from one address; loopback ones are not counted.
    #[serde(deserialize_with = "count")]
    pub connections_per_address: usize,
    /// Sessions at a time of one subject.
    #[serde(deserialize_with = "count")]
    pub connections_per_subject: usize,
    /// Subscriptions of one session.
    #[serde(deserialize_with = "count")]
    pub subscriptions_per_session: usize,
    /// Bytes of one message from a client.
    #[serde(deserialize_with = "size")]
    pub message_size: usize,
    /// Messages from a client in a second, over time.
    #[serde(deserialize_with = "count")]
    pub messages_per_second: usize,
    /// Messages from a client at once.
    #[serde(deserialize_with = "count")]
    pub message_burst: usize,
    /// Time from connecting to the end of a request's head, and to the token where one is needed.
    #[serde(deserialize_with = "time")]
    pub handshake_time: Duration,
    /// Time that a session may subscribe to nothing and say nothing.
    #[serde(deserialize_with = "time")]
    pub idle_time: Duration,
    /// Time without progress while there is something to send.
    #[serde(deserialize_with = "time")]
    pub write_time: Duration,
    /// Bytes of diffs kept for clients that are behind, of all projections together.
    #[serde(deserialize_with = "size")]
    pub log_size: usize,
    /// Bytes of rows in one message, about.
    #[serde(deserialize_with = "size")]
    pub part_size: usize,
    /// Bytes of messages that wait for clients who do not take them, of all clients together.
    #[serde(deserialize_with = "size")]
    pub held_size: usize,
    /// What the filters of a session may weigh together, in comparisons for each row that changes.
    #[serde(deserialize_with = "count")]
    pub filter_weight: usize,
    /// Rows that windows may have, of all clients.
    #[serde(deserialize_with = "count")]
    pub window_rows: usize,
    /// Images that are read at a time, of all clients.
    #[serde(deserialize_with = "count")]
    pub images: usize,
    /// The shortest interval between diffs that a client may ask for.
    #[serde(deserialize_with = "interval")]
    pub batch_min: Duration,
    /// The longest.
    #[serde(deserialize_with = "interval")]
    pub batch_max: Duration,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            connections: 10_000,
            connections_per_address: 1_000,
            connections_per_subject: 100,
            subscriptions_per_session: 100,
            message_size: 64 << 10,
            messages_per_second: 50,
            message_burst: 300,
            handshake_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(300),
            write_time: Duration::from_secs(30),
            log_size: 64 << 20,
            part_size: 256 << 10,
            held_size: 512 << 20,
            filter_weight: 500,
            window_rows: 1_000_000,
            images: 1_000,
            batch_min: Duration::ZERO,
            batch_max: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// Reads the text of the file in a project's folder: paths in it are relative to that. What can
    /// be used is returned; every mistake goes to `wrong`.
    pub fn parse(
        file: &Arc<SourceFile>,
        folder: &Path,
        environment: Environment<'_>,
        wrong: &mut Diagnostics,
    ) -> Config {
        let raw: RawConfig = match toml::from_str(&file.text) {
            Ok(raw) => raw,
            Err(error) => {
                let place = place(file, error.span().unwrap_or(0..0));
                let mistake = Diagnostic::at(place, error.message().trim().replace('\n', " "));
                wrong.push(mistake.help("see docs/projects.md for what deltafront.toml may hold"));
                return Config::default();
            }
        };
        let RawConfig { project, server, auth, limits } = raw;
        if project.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            let mistake = Diagnostic::of_project("name in [project] of deltafront.toml is empty");
            wrong.push(mistake.help("leave it out, and the folder's name is taken"));
        }
        let auth = auth.map(|auth| Reading { file, folder, environment, wrong }.auth(auth));
        let LimitsConfig { batch_min, batch_max, .. } = limits;
        if batch_max < batch_min {
            let message = format!("batch_min in [limits] is {batch_min:?}, and batch_max only {batch_max:?}");
            wrong.push(Diagnostic::of_project(message).help("a client's interval lies between the two"));
        }
        Config { project, server, auth, limits }
    }
}

/// What is needed to make sense of what was written.
struct Reading<'a> {
    file: &'a Arc<SourceFile>,
    folder: &'a Path,
    environment: Environment<'a>,
    wrong: &'a mut Diagnostics,
}

impl Reading<'_> {
    fn auth(&mut self, raw: RawAuth) -> AuthConfig {
        if let Some(algorithms) = raw.algorithms.as_ref().filter(|algorithms| algorithms.as_ref().is_empty()) {
            self.mistake(
                algorithms.span(),
                "no algorithm is left",
                "leave the setting out, or name HS256, RS256, ES256 or EdDSA",
            );
        }
        let role_claim = ClaimPath::parse(raw.role_claim.as_ref()).unwrap_or_else(|error| {
            let help = "write role_claim = \"role\", or of a claim within another \"realm_access.roles\"";
            self.mistake(raw.role_claim.span(), &error.message, help);
            ClaimPath::parse("role").expect("a name is a path")
        });
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
        };
        if let Some(cookie) = raw.cookie.as_ref().filter(|cookie| !is_name(cookie.as_ref())) {
            self.mistake(cookie.span(), "that is no name of a cookie", "write cookie = \"__Host-session\"");
        }
        let no_keys = [&raw.secret, &raw.secret_file, &raw.key_file, &raw.jwks_url].iter().all(|place| place.is_none());
        if no_keys && raw.admin_token.is_none() {
            let mistake = Diagnostic::of_project("[auth] in deltafront.toml has no keys to check tokens with");
            self.wrong.push(mistake.help("give one of secret, secret_file, key_file and jwks_url"));
        }
        let admin_token = raw.admin_token.and_then(|text| self.secret("admin_token", text));
        if admin_token.as_ref().is_some_and(|token| token.0.chars().count() < ADMIN_TOKEN_CHARS_MIN) {
            let message = format!("admin_token in [auth] has fewer than {ADMIN_TOKEN_CHARS_MIN} characters");
            self.wrong.push(Diagnostic::of_project(message).help("make one by: openssl rand -hex 32"));
        }
        AuthConfig {
            keys: self.keys(raw.secret, [raw.secret_file, raw.key_file, raw.jwks_url], raw.jwks_ca_file),
            algorithms: raw.algorithms.map(Spanned::into_inner).unwrap_or_default(),
            issuers: self.texts(raw.issuer, ISSUER_HELP),
            audiences: self.texts(raw.audience, AUDIENCE_HELP),
            clock_skew: raw.clock_skew,
            expiry_required: raw.expiry_required,
            lifetime_max: raw.lifetime_max,
            role_claim,
            cookie: raw.cookie.map(Spanned::into_inner),
            grace: raw.grace,
            admin_token,
        }
    }

    fn keys(
        &mut self,
        secret: Option<Spanned<String>>,
        [secret_file, file, url]: [Option<Spanned<String>>; 3],
        authorities: Option<Spanned<String>>,
    ) -> Option<KeysConfig> {
        // The line of a secret is not shown, so it is always another setting that is too many.
        let others: Vec<_> = [&secret_file, &file, &url].into_iter().flatten().collect();
        if let Some(other) = others.last().filter(|_| others.len() + usize::from(secret.is_some()) > 1) {
            self.mistake(
                other.span(),
                "keys are in one place",
                "give one of secret, secret_file, key_file and jwks_url",
            );
        }
        if let Some(authorities) = authorities.as_ref().filter(|_| url.is_none()) {
            self.mistake(
                authorities.span(),
                "there is no address whose certificate could be checked",
                "jwks_ca_file goes with jwks_url",
            );
        }
        let authorities = authorities.and_then(|path| self.text(path)).map(|path| self.folder.join(path));
        let secret = secret.and_then(|text| self.secret("secret", text)).map(KeysConfig::Secret);
        let secret_file = secret_file.and_then(|path| self.text(path)).map(|path| self.folder.join(path));
        let secret = secret.or(secret_file.map(KeysConfig::SecretFile));
        let file = file.and_then(|path| self.text(path)).map(|path| KeysConfig::File(self.folder.join(path)));
        let url = url.and_then(|url| self.text(url));
        secret.or(file).or(url.map(|url| KeysConfig::Address { url, authorities }))
    }

    fn mistake(&mut self, span: std::ops::Range<usize>, message: &str, help: &str) {
        self.wrong.push(Diagnostic::at(place(self.file, span), message).help(help));
    }

    /// A text, with the variables of the environment put in.
    fn text(&mut self, written: Spanned<String>) -> Option<String> {
        match options::substitute(written.as_ref(), self.environment) {
            Ok(text) => Some(text),
            Err(mistake) => {
                self.mistake(written.span(), &mistake.message, &mistake.help);
                None
            }
        }
    }

    /// Texts, of which one has to be there, and none may be empty: `help` says what it means to leave all out.
    fn texts(&mut self, written: Option<OneOrMany>, help: &str) -> Vec<String> {
        let Some(OneOrMany(written)) = written else { return Vec::new() };
        let span = written.span();
        let texts = written.into_inner();
        if texts.is_empty() {
            self.mistake(span, "an empty list is nobody's", help);
            return Vec::new();
        }
        let mut found = Vec::with_capacity(texts.len());
        for text in texts {
            match self.text(Spanned::new(span.clone(), text)) {
                Some(text) if text.trim().is_empty() => self.mistake(span.clone(), "an empty text is nobody's", help),
                Some(text) => found.push(text),
                None => {}
            }
        }
        found
    }

    /// As [`Reading::text`], but its line is never shown.
    fn secret(&mut self, name: &str, written: Spanned<String>) -> Option<Secret> {
        match options::substitute(written.as_ref(), self.environment) {
            Ok(text) => Some(Secret(text)),
            Err(mistake) => {
                let message = format!("{name} in [auth]: {}", mistake.message);
                self.wrong.push(Diagnostic::of_project(message).help(mistake.help));
                None
            }
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    options::duration(&text).map_err(Error::custom)
}

/// How long a token may live.
fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match duration(deserializer)? {
        Duration::ZERO => Err(Error::custom("no token lives for no time at all: write how long, or leave it out")),
        lifetime => Ok(Some(lifetime)),
    }
}

/// The interval between diffs.
fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let interval = duration(deserializer)?;
    if interval > BATCH_MAX { Err(Error::custom(BATCH_TOO_LONG)) } else { Ok(interval) }
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    address(&String::deserialize(deserializer)?).map_err(Error::custom)
}

/// An address to listen at.
///
/// # Errors
/// With the remedy, when it is none.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    // The one name that is the same everywhere.
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| {
        "write an address of this machine and a port: \"localhost:8080\", \"0.0.0.0:8080\" for all of them, or \
         \"[::1]:8080\"; other names are not looked up"
            .to_owned()
    })
}

/// A duration in which something can happen.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let time = duration(deserializer)?;
    if time.is_zero() { Err(Error::custom("no time at all would end every connection")) } else { Ok(time) }
}

/// A number of things, at least one.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(Error::custom("write a number of at least 1")),
        count => Ok(count),
    }
}

/// A number of bytes: `65536`, or `\"64KiB\"`.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes such as 65536 or \"64KiB\"")
        }

        fn visit_i64<E: Error>(self, bytes: i64) -> Result<usize, E> {
            usize::try_from(bytes).ok().filter(|&bytes| bytes > 0).ok_or_else(|| E::custom("write at least one byte"))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<usize, E> {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (number, unit) = text.split_at(digits);
            let unit = match unit.trim() {
                "B" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                _ => return Err(E::custom("write a number of bytes with its unit: B, KiB, MiB or GiB")),
            };
            let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
            bytes.filter(|&bytes| bytes > 0).ok_or_else(|| E::custom("write a number of bytes such as \"64KiB\""))
        }
    }
    deserializer.deserialize_any(Size)
}

fn place(file: &Arc<SourceFile>, span: std::ops::Range<usize>) -> Place {
    Place::new(file, Span::new(location(&file.text, span.start), location(&file.text, span.end)))
}

fn location(text: &str, byte: usize) -> Location {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() as u64 + 1;
    Location::new(line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::{Expect, expect};

    /// What is wrong with a file; nothing when it is right.
    fn read(text: &str) -> (Config, String) {
        let file = SourceFile { path: PathBuf::from("deltafront.toml"), text: text.to_owned() };
        let environment = |name: &str| match name {
            "JWT_SECRET" => Some("a secret of at least thirty-two bytes".to_owned()),
            "DOMAIN" => Some("shop.example".to_owned()),
            _ => None,
        };
        let mut wrong = Diagnostics::default();
        let config = Config::parse(&Arc::new(file), Path::new("/project"), &environment, &mut wrong);
        let told = if wrong.is_empty() { String::new() } else { wrong.to_string() };
        (config, told)
    }

    fn check_mistakes(texts: &[&str], expected: Expect) {
        let told: Vec<String> = texts.iter().map(|text| read(text).1).collect();
        expected.assert_eq(&told.join("\n"));
    }

    #[test]
    fn an_empty_file_has_what_the_documents_say() {
        let (config, told) = read("");
        assert_eq!((told, config.auth, &config.limits), (String::new(), None, &LimitsConfig::default()));
        expect![[r#"
            LimitsConfig {
                connections: 10000,
                connections_per_address: 1000,
                connections_per_subject: 100,
                subscriptions_per_session: 100,
                message_size: 65536,
                messages_per_second: 50,
                message_burst: 300,
                handshake_time: 10s,
                idle_time: 300s,
                write_time: 30s,
                log_size: 67108864,
                part_size: 262144,
                held_size: 536870912,
                filter_weight: 500,
                window_rows: 1000000,
                images: 1000,
                batch_min: 0ns,
                batch_max: 60s,
            }
        "#]]
        .assert_debug_eq(&config.limits);
    }

    #[test]
    fn auth_is_read_with_the_environment_put_in() {
        let (config, told) = read(
            r#"
            [auth]
            jwks_url = "https://id.${DOMAIN}/keys"
            jwks_ca_file = "ca.pem"
            algorithms = ["RS256", "EdDSA"]
            issuer = "https://id.${DOMAIN}/"
            audience = ["live", "${NONE:-api}"]
            clock_skew = "5s"
            expiry_required = false
            lifetime_max = "24h"
            role_claim = "realm_access.roles"
            cookie = "__Host-session"
            grace = "1min"
            admin_token = "${JWT_SECRET}"
            "#,
        );
        assert_eq!(told, "");
        expect![[r#"
            Some(
                AuthConfig {
                    keys: Some(
                        Address {
                            url: "https://id.shop.example/keys",
                            authorities: Some(
                                "/project/ca.pem",
                            ),
                        },
                    ),
                    algorithms: [
                        RS256,
                        EdDSA,
                    ],
                    issuers: [
                        "https://id.shop.example/",
                    ],
                    audiences: [
                        "live",
                        "api",
                    ],
                    clock_skew: 5s,
                    expiry_required: false,
                    lifetime_max: Some(
                        86400s,
                    ),
                    role_claim: ClaimPath {
                        text: "realm_access.roles",
                        names: [
                            "realm_access",
                            "roles",
                        ],
                    },
                    cookie: Some(
                        "__Host-session",
                    ),
                    grace: 60s,
                    admin_token: Some(
                        Secret(…),
                    ),
                },
            )
        "#]]
        .assert_debug_eq(&config.auth);
        assert_eq!(
            config.auth.and_then(|auth| auth.admin_token).expect("a token").expose(),
            "a secret of at least thirty-two bytes"
        );
    }

    #[test]
    fn keys_are_in_one_of_three_places() {
        let keys = |text: &str| {
            let (config, told) = read(&format!("[auth]\n{text}"));
            assert_eq!(told, "");
            config.auth.expect("a part").keys
        };
        let secret = Secret("a secret of at least thirty-two bytes".to_owned());
        assert_eq!(keys("secret = '${JWT_SECRET}'"), Some(KeysConfig::Secret(secret)));
        assert_eq!(keys("key_file = 'keys/public.pem'"), Some(KeysConfig::File("/project/keys/public.pem".into())));
        let path = "/project/keys/secret".into();
        assert_eq!(keys("secret_file = 'keys/secret'"), Some(KeysConfig::SecretFile(path)));
        assert_eq!(keys("key_file = '/run/secrets/key'"), Some(KeysConfig::File("/run/secrets/key".into())));
        let url = "https://id.example/keys".to_owned();
        assert_eq!(keys(&format!("jwks_url = '{url}'")), Some(KeysConfig::Address { url, authorities: None }));
        assert_eq!(keys("admin_token = '0123456789abcdef'"), None);
        let (config, _) = read("[auth]\nsecret = 'x'");
        let RawAuth { clock_skew, grace, .. } = RawAuth::default();
        let auth = config.auth.expect("a part");
        assert_eq!((auth.clock_skew, auth.grace, auth.role_claim.as_str()), (clock_skew, grace, "role"));
    }

    /// What is wrong is shown with its line, but a line with a secret in it is not.
    #[test]
    fn mistakes_in_auth() {
        check_mistakes(
            &[
                "[auth]",
                "[auth]\nsecret = '${NONE}'",
                "[auth]\nsecret = 'hush'\nkey_file = 'a'",
                "[auth]\nsecret_file = 'b'\nkey_file = 'a'",
                "[auth]\nkey_file = 'a'\njwks_url = '${NONE}'",
                "[auth]\nsecret = 'hush'\njwks_ca_file = 'a'",
                "[auth]\nsecret = 'hush'\nalgorithms = []",
                "[auth]\nsecret = 'hush'\nalgorithms = ['none']",
                "[auth]\nsecret = 'hush'\nissuer = 7",
                "[auth]\nsecret = 'hush'\naudience = '${'",
                "[auth]\nsecret = 'hush'\nrole_claim = ''",
                "[auth]\nsecret = 'hush'\ncookie = 'a b'",
                "[auth]\nsecret = 'hush'\nclock_skew = 60",
                "[auth]\nsecret = 'hush'\ngrace = '60'",
                "[auth]\nsecret = 'hush'\nadmin_token = 'hush hush hush '",
                "[auth]\nsecret = 'hush'\nkey = 'a'",
                // What no token can hold, or any.
                "[auth]\nsecret = 'hush'\nlifetime_max = '0s'",
                "[auth]\nsecret = 'hush'\nlifetime_max = '999999999h'",
                "[auth]\nsecret = 'hush'\nissuer = ''",
                "[auth]\nsecret = 'hush'\nissuer = []",
                "[auth]\nsecret = 'hush'\naudience = []",
                "[auth]\nsecret = 'hush'\naudience = ['live', ' ']",
            ],
            expect![[r#"
                error: [auth] in deltafront.toml has no keys to check tokens with
                  = help: give one of secret, secret_file, key_file and jwks_url

                1 mistake
                error: secret in [auth]: the environment variable NONE is not set
                  = help: export NONE=… before starting, or write ${NONE:-otherwise}

                1 mistake
                error: keys are in one place
                 --> deltafront.toml:3:12
                  |
                3 | key_file = 'a'
                  |            ^^^
                  = help: give one of secret, secret_file, key_file and jwks_url

                1 mistake
                error: keys are in one place
                 --> deltafront.toml:3:12
                  |
                3 | key_file = 'a'
                  |            ^^^
                  = help: give one of secret, secret_file, key_file and jwks_url

                1 mistake
                error: keys are in one place
                 --> deltafront.toml:3:12
                  |
                3 | jwks_url = '${NONE}'
                  |            ^^^^^^^^^
                  = help: give one of secret, secret_file, key_file and jwks_url

                error: the environment variable NONE is not set
                 --> deltafront.toml:3:12
                  |
                3 | jwks_url = '${NONE}'
                  |            ^^^^^^^^^
                  = help: export NONE=… before starting, or write ${NONE:-otherwise}

                2 mistakes
                error: there is no address whose certificate could be checked
                 --> deltafront.toml:3:16
                  |
                3 | jwks_ca_file = 'a'
                  |                ^^^
                  = help: jwks_ca_file goes with jwks_url

                1 mistake
                error: no algorithm is left
                 --> deltafront.toml:3:14
                  |
                3 | algorithms = []
                  |              ^^
                  = help: leave the setting out, or name HS256, RS256, ES256 or EdDSA

                1 mistake
                error: unknown variant `none`, expected one of `HS256`, `RS256`, `ES256`, `EdDSA`
                 --> deltafront.toml:3:15
                  |
                3 | algorithms = ['none']
                  |               ^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write a text or a list of texts
                 --> deltafront.toml:3:10
                  |
                3 | issuer = 7
                  |          ^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: `${` without `}`
                 --> deltafront.toml:3:12
                  |
                3 | audience = '${'
                  |            ^^^^
                  = help: write ${NAME} or ${NAME:-otherwise}

                1 mistake
                error: a claim is named such as `sub` or `app_metadata.org`
                 --> deltafront.toml:3:14
                  |
                3 | role_claim = ''
                  |              ^^
                  = help: write role_claim = "role", or of a claim within another "realm_access.roles"

                1 mistake
                error: that is no name of a cookie
                 --> deltafront.toml:3:10
                  |
                3 | cookie = 'a b'
                  |          ^^^^^
                  = help: write cookie = "__Host-session"

                1 mistake
                error: invalid type: integer `60`, expected a string
                 --> deltafront.toml:3:14
                  |
                3 | clock_skew = 60
                  |              ^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write a duration with its unit: ms, s, min or h
                 --> deltafront.toml:3:9
                  |
                3 | grace = '60'
                  |         ^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: admin_token in [auth] has fewer than 16 characters
                  = help: make one by: openssl rand -hex 32

                1 mistake
                error: unknown field `key`, expected one of `secret`, `secret_file`, `key_file`, `jwks_url`, `jwks_ca_file`, `algorithms`, `issuer`, `audience`, `clock_skew`, `expiry_required`, `lifetime_max`, `role_claim`, `cookie`, `grace`, `admin_token`
                 --> deltafront.toml:3:1
                  |
                3 | key = 'a'
                  | ^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: no token lives for no time at all: write how long, or leave it out
                 --> deltafront.toml:3:16
                  |
                3 | lifetime_max = '0s'
                  |                ^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: nothing here lasts longer than 100 years
                 --> deltafront.toml:3:16
                  |
                3 | lifetime_max = '999999999h'
                  |                ^^^^^^^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: an empty text is nobody's
                 --> deltafront.toml:3:10
                  |
                3 | issuer = ''
                  |          ^^
                  = help: write issuer = "https://id.example/"; when it is left out, tokens of everybody who has the key are taken

                1 mistake
                error: an empty list is nobody's
                 --> deltafront.toml:3:10
                  |
                3 | issuer = []
                  |          ^^
                  = help: write issuer = "https://id.example/"; when it is left out, tokens of everybody who has the key are taken

                1 mistake
                error: an empty list is nobody's
                 --> deltafront.toml:3:12
                  |
                3 | audience = []
                  |            ^^
                  = help: write audience = "live"; when it is left out, tokens that name an audience are meant for somebody else

                1 mistake
                error: an empty text is nobody's
                 --> deltafront.toml:3:12
                  |
                3 | audience = ['live', ' ']
                  |            ^^^^^^^^^^^^^
                  = help: write audience = "live"; when it is left out, tokens that name an audience are meant for somebody else

                1 mistake"#]],
        );
    }

    /// `invalid socket address syntax` told nobody that a name is none, or that a port belongs to it.
    #[test]
    fn mistakes_in_where_and_what_it_is() {
        assert_eq!(read("[server]\nlisten = ' [::1]:9000'").0.server.listen, "[::1]:9000".parse().expect("an address"));
        assert_eq!(read("[server]\nlisten = 'localhost:9019'").0.server.listen, "127.0.0.1:9019".parse().expect("one"));
        check_mistakes(
            &[
                "[server]\nlisten = 'my-host:9019'",
                "[server]\nlisten = '127.0.0.1'",
                "[server]\nlisten = 8080",
                "[project]\nname = ''",
            ],
            expect![[r#"
                error: write an address of this machine and a port: "localhost:8080", "0.0.0.0:8080" for all of them, or "[::1]:8080"; other names are not looked up
                 --> deltafront.toml:2:10
                  |
                2 | listen = 'my-host:9019'
                  |          ^^^^^^^^^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write an address of this machine and a port: "localhost:8080", "0.0.0.0:8080" for all of them, or "[::1]:8080"; other names are not looked up
                 --> deltafront.toml:2:10
                  |
                2 | listen = '127.0.0.1'
                  |          ^^^^^^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: invalid type: integer `8080`, expected a string
                 --> deltafront.toml:2:10
                  |
                2 | listen = 8080
                  |          ^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: name in [project] of deltafront.toml is empty
                  = help: leave it out, and the folder's name is taken

                1 mistake"#]],
        );
    }

    #[test]
    fn limits_have_units() {
        let (config, told) = read(
            "[limits]\nconnections = 5\nmessage_size = 1024\nlog_size = '1GiB'\n\
             write_time = '250ms'\nbatch_min = '1s'\nbatch_max = '1s'",
        );
        assert_eq!(told, "");
        let expected = LimitsConfig {
            connections: 5,
            message_size: 1024,
            log_size: 1 << 30,
            write_time: Duration::from_millis(250),
            batch_min: Duration::from_secs(1),
            batch_max: Duration::from_secs(1),
            ..LimitsConfig::default()
        };
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn mistakes_in_limits() {
        check_mistakes(
            &[
                "[limits]\nconnections = 0",
                "[limits]\nconnections = -1",
                "[limits]\nmessage_size = '64KB'",
                "[limits]\nmessage_size = 'KiB'",
                "[limits]\nmessage_size = '0KiB'",
                "[limits]\nmessage_size = 0",
                "[limits]\nmessage_size = true",
                "[limits]\nmessage_size = '99999999999GiB'",
                "[limits]\nidle_time = '0s'",
                "[limits]\nbatch_min = '2s'\nbatch_max = '1s'",
                "[limits]\nconnection = 5",
                "[limits]\nbatch_min = '100000000000h'\nbatch_max = '100000000000h'",
                "[limits]\nbatch_max = '25h'",
            ],
            expect![[r#"
                error: write a number of at least 1
                 --> deltafront.toml:2:15
                  |
                2 | connections = 0
                  |               ^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: invalid value: integer `-1`, expected usize
                 --> deltafront.toml:2:15
                  |
                2 | connections = -1
                  |               ^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write a number of bytes with its unit: B, KiB, MiB or GiB
                 --> deltafront.toml:2:16
                  |
                2 | message_size = '64KB'
                  |                ^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write a number of bytes such as "64KiB"
                 --> deltafront.toml:2:16
                  |
                2 | message_size = 'KiB'
                  |                ^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write a number of bytes such as "64KiB"
                 --> deltafront.toml:2:16
                  |
                2 | message_size = '0KiB'
                  |                ^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write at least one byte
                 --> deltafront.toml:2:16
                  |
                2 | message_size = 0
                  |                ^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: invalid type: boolean `true`, expected a number of bytes such as 65536 or "64KiB"
                 --> deltafront.toml:2:16
                  |
                2 | message_size = true
                  |                ^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: write a number of bytes such as "64KiB"
                 --> deltafront.toml:2:16
                  |
                2 | message_size = '99999999999GiB'
                  |                ^^^^^^^^^^^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: no time at all would end every connection
                 --> deltafront.toml:2:13
                  |
                2 | idle_time = '0s'
                  |             ^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: batch_min in [limits] is 2s, and batch_max only 1s
                  = help: a client's interval lies between the two

                1 mistake
                error: unknown field `connection`, expected one of `connections`, `connections_per_address`, `connections_per_subject`, `subscriptions_per_session`, `message_size`, `messages_per_second`, `message_burst`, `handshake_time`, `idle_time`, `write_time`, `log_size`, `part_size`, `held_size`, `filter_weight`, `window_rows`, `images`, `batch_min`, `batch_max`
                 --> deltafront.toml:2:1
                  |
                2 | connection = 5
                  | ^^^^^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: nothing here lasts longer than 100 years
                 --> deltafront.toml:3:13
                  |
                3 | batch_max = '100000000000h'
                  |             ^^^^^^^^^^^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake
                error: clients are told at least once in 24 hours
                 --> deltafront.toml:2:13
                  |
                2 | batch_max = '25h'
                  |             ^^^^^
                  = help: see docs/projects.md for what deltafront.toml may hold

                1 mistake"#]],
        );
    }
}
