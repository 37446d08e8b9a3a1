//! `deltafront.toml`: what is not SQL.

use std::net::SocketAddr;
use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use filter::ClaimPath;
use serde::{Deserialize, Deserializer};

use crate::diagnostic::{Diagnostic, Place, SourceFile};

/// The whole file. Every part may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[project]`
    pub project: ProjectConfig,
    /// `[server]`
    pub server: ServerConfig,
    /// `[auth]`
    pub auth: AuthConfig,
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
    pub listen: SocketAddr,
    /// Web origins besides the server's own whose pages may connect, such as
    /// `https://shop.example`.
    pub allowed_origins: Vec<String>,
    /// Names besides the loopback ones under which a browser may reach a loopback listener.
    pub allowed_hosts: Vec<String>,
}

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The claim that names a token's role or roles, such as `app_metadata.role`; see [`filter::access::roles`].
    #[serde(deserialize_with = "claim_path")]
    pub role_claim: ClaimPath,
}

impl Default for AuthConfig {
    fn default() -> AuthConfig {
        AuthConfig { role_claim: ClaimPath::parse("role").expect("a name is a path") }
    }
}

fn claim_path<'de, D: Deserializer<'de>>(from: D) -> Result<ClaimPath, D::Error> {
    ClaimPath::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
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

impl Config {
    /// Reads the file's text.
    ///
    /// # Errors
    /// With the place of the first mistake.
    pub fn parse(file: &Arc<SourceFile>) -> Result<Config, Diagnostic> {
        toml::from_str(&file.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let place = Place::new(file, Span::new(location(&file.text, span.start), location(&file.text, span.end)));
            Diagnostic::at(place, error.message().trim().replace('\n', " "))
                .help("see docs/projects.md for what deltafront.toml may hold")
        })
    }
}

fn location(text: &str, byte: usize) -> Location {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() as u64 + 1;
    Location::new(line, column)
}
