//! Sockets, TLS and sign-in, the same for SQL and for replication.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pgwire_replication::SslMode;
use pgwire_replication::auth::scram::ScramClient;
use pgwire_replication::config::TlsConfig;
use pgwire_replication::protocol::framing::{MessageReader, write_password_message, write_startup_message};
use pgwire_replication::protocol::messages::{ErrorFields, parse_auth_request};
use pgwire_replication::tls::rustls::{MaybeTlsStream, maybe_upgrade_to_tls};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};

use super::error::SourceError;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Unacknowledged bytes end a connection after this long, so that a dead peer is noticed also
/// while we write.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

const PORT_FORM: &str = "a port is a number from 1 to 65535";

/// Settings that values' text depends on, whatever the role or database has set.
const SESSION_OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=3 -c bytea_output=hex \
     -c timezone=UTC -c client_encoding=UTF8 -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";

/// What the server must prove in turn: the exchange so far, and the salted password.
type ScramProof = (String, Vec<u8>);

/// A database to connect to.
#[derive(Clone)]
pub struct Target {
    host: String,
    port: u16,
    user: String,
    password: Option<Vec<u8>>,
    /// Name of the database.
    pub database: String,
    tls: TlsConfig,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Never shows the password.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "postgres://{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

impl Target {
    /// Reads a connection URL such as `postgres://user:password@host:5432/database?sslmode=require`.
    ///
    /// `sslmode` is one of disable, prefer (the default), require, verify-ca and verify-full;
    /// `sslrootcert` names a PEM file.
    ///
    /// # Errors
    /// [`SourceError::NotReady`] with what is wrong; the URL itself, which may hold a password, is
    /// not repeated.
    pub fn parse(url: &str) -> Result<Target, SourceError> {
        let but = |what: String, remedy: &str| SourceError::NotReady { what, remedy: remedy.to_owned() };
        let bad = |what: String| but(what, "write the url as postgres://user:password@host:5432/database");
        if url.trim().is_empty() {
            return Err(bad("the url of the database is empty".to_owned()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut tls = TlsConfig { mode: SslMode::Prefer, ..TlsConfig::disabled() };
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => {
                    tls.mode = match mode {
                        "disable" => SslMode::Disable,
                        "allow" | "prefer" => SslMode::Prefer,
                        "require" => SslMode::Require,
                        "verify-ca" => SslMode::VerifyCa,
                        "verify-full" => SslMode::VerifyFull,
                        other => {
                            let remedy =
                                "write disable, prefer (as when it is left out), require, verify-ca or verify-full";
                            return Err(but(format!("there is no sslmode {other}"), remedy));
                        }
                    }
                }
                Some(("sslrootcert", path)) => tls.ca_pem_path = Some(PathBuf::from(path)),
                _ => rest.push(pair),
            }
        }
        let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let config: tokio_postgres::Config = url.parse().map_err(|error: tokio_postgres::Error| {
            // What it is in particular stands in the cause: an option by its name.
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            let what = format!("the url of the database can't be read: {cause}");
            match cause.as_str() {
                "invalid value for option `port`" => but(what, PORT_FORM),
                _ if cause.starts_with("unknown option") => {
                    but(what, "leave it out; sslmode and sslrootcert are what a url is asked for here")
                }
                _ => bad(what),
            }
        })?;
        if config.get_ports().contains(&0) {
            return Err(but("the url of the database can't be read: nobody listens on port 0".to_owned(), PORT_FORM));
        }
        let host = match config.get_hosts() {
            [Host::Tcp(host), ..] => host.clone(),
            [] => "localhost".to_owned(),
            #[cfg(unix)]
            [Host::Unix(_), ..] => return Err(bad("sockets of the file system are not supported".to_owned())),
        };
        let user = config.get_user().map_or_else(|| "postgres".to_owned(), str::to_owned);
        Ok(Target {
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            database: config.get_dbname().map_or_else(|| user.clone(), str::to_owned),
            password: config.get_password().map(<[u8]>::to_vec),
            user,
            tls,
        })
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether both mean the same database and user.
    #[must_use]
    pub fn is_same(&self, other: &Target) -> bool {
        (&self.host, self.port, &self.user, &self.database, &self.password)
            == (&other.host, other.port, &other.user, &other.database, &other.password)
    }

    /// What `tokio_postgres` says of an error, in our terms.
    #[must_use]
    pub fn sql_error(&self, error: tokio_postgres::Error) -> SourceError {
        match error.as_db_error() {
            Some(db) => SourceError::Refused {
                server: self.server(),
                code: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().or(db.hint()).map(str::to_owned),
            },
            None => self.lost(io::Error::other(error)),
        }
    }

    /// The connection broke.
    #[must_use]
    pub fn lost(&self, cause: io::Error) -> SourceError {
        SourceError::Disconnected { server: self.server(), cause }
    }

    /// What the server said in an ErrorResponse.
    #[must_use]
    pub fn refused(&self, payload: &[u8]) -> SourceError {
        let fields = ErrorFields::parse(payload);
        SourceError::Refused {
            server: self.server(),
            code: fields.code.unwrap_or_default(),
            message: fields.message.unwrap_or_default(),
            detail: fields.detail.or(fields.hint),
        }
    }

    async fn socket(&self) -> Result<MaybeTlsStream, SourceError> {
        let connect = async {
            let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
            socket.set_nodelay(true)?;
            let options = SockRef::from(&socket);
            let keepalive =
                TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
            options.set_tcp_keepalive(&keepalive)?;
            #[cfg(target_os = "linux")]
            options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            maybe_upgrade_to_tls(socket, &self.tls, &self.host).await.map_err(io::Error::other)
        };
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(socket) => socket.map_err(|cause| self.lost(cause)),
            Err(_) => Err(self.lost(io::Error::new(io::ErrorKind::TimedOut, "no connection within 10 s"))),
        }
    }

    /// A connection for SQL. Its I/O runs as a task until the client is dropped.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub async fn sql(&self) -> Result<Client, SourceError> {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.user).dbname(&self.database).application_name("deltafront").options(SESSION_OPTIONS);
        config.ssl_mode(tokio_postgres::config::SslMode::Disable); // the socket has it already
        if let Some(password) = &self.password {
            config.password(password);
        }
        let (client, connection) =
            config.connect_raw(self.socket().await?, NoTls).await.map_err(|error| self.sql_error(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "SQL connection ended");
            }
        });
        Ok(client)
    }

    /// A signed-in connection in replication mode.
    ///
    /// # Errors
    /// When the server can't be reached or refuses.
    pub(super) async fn replication(&self) -> Result<(MaybeTlsStream, MessageReader), SourceError> {
        let mut socket = self.socket().await?;
        let parameters = [
            ("user", self.user.as_str()),
            ("database", self.database.as_str()),
            ("replication", "database"),
            ("application_name", "deltafront"),
            ("options", SESSION_OPTIONS),
        ];
        let mut reader = MessageReader::with_capacity(64 * 1024);
        let sign_in = async {
            write_startup_message(&mut socket, 196_608, &parameters)
                .await
                .map_err(|e| self.lost(io::Error::other(e)))?;
            self.sign_in(&mut socket, &mut reader).await
        };
        match timeout(CONNECT_TIMEOUT, sign_in).await {
            Ok(signed_in) => signed_in?,
            Err(_) => return Err(self.lost(io::Error::new(io::ErrorKind::TimedOut, "not signed in within 10 s"))),
        }
        Ok((socket, reader))
    }

    async fn sign_in(&self, socket: &mut MaybeTlsStream, reader: &mut MessageReader) -> Result<(), SourceError> {
        let io_error = |error| self.lost(io::Error::other(error));
        let password = self.password.as_deref().unwrap_or_default();
        let mut scram: Option<(ScramClient, Option<ScramProof>)> = None;
        loop {
            let message = reader.read(socket).await.map_err(io_error)?;
            match message.tag {
                b'R' => {}
                b'E' => return Err(self.refused(&message.payload)),
                b'Z' => return Ok(()),
                _ => continue,
            }
            let (code, data) = parse_auth_request(&message.payload).map_err(io_error)?;
            let refused = |what: String| SourceError::NotReady {
                what,
                remedy: "let the role sign in by scram-sha-256, md5 or password (pg_hba.conf)".to_owned(),
            };
            match (code, &mut scram) {
                (0, _) => {}
                (3, _) => write_password_message(socket, &[password, b"\0"].concat()).await.map_err(io_error)?,
                (5, _) => {
                    let salt = data.try_into().map_err(|_| refused("the server sent a bad MD5 salt".to_owned()))?;
                    let hash = postgres_protocol::authentication::md5_hash(self.user.as_bytes(), password, salt);
                    write_password_message(socket, &[hash.as_bytes(), b"\0"].concat()).await.map_err(io_error)?;
                }
                (10, scram) => {
                    if !data.split(|&byte| byte == 0).any(|mechanism| mechanism == b"SCRAM-SHA-256") {
                        return Err(refused("the server offers no sign-in that is known here".to_owned()));
                    }
                    let client = ScramClient::new(&self.user);
                    let length = u32::try_from(client.client_first.len()).unwrap_or(u32::MAX).to_be_bytes();
                    let first = [b"SCRAM-SHA-256\0", &length[..], client.client_first.as_bytes()].concat();
                    write_password_message(socket, &first).await.map_err(io_error)?;
                    *scram = Some((client, None));
                }
                (11, Some((client, proof))) => {
                    let server_first = String::from_utf8_lossy(data);
                    let password = String::from_utf8_lossy(password);
                    let (last, message, salted) = client.client_final(&password, &server_first).map_err(io_error)?;
                    write_password_message(socket, last.as_bytes()).await.map_err(io_error)?;
                    *proof = Some((message, salted));
                }
                (12, Some((_, Some((message, salted))))) => {
                    ScramClient::verify_server_final(&String::from_utf8_lossy(data), salted, message).map_err(
                        |error| refused(format!("the server did not prove that it knows the password: {error}")),
                    )?;
                }
                (code, _) => return Err(refused(format!("the server asks for sign-in of kind {code}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::expect;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let target = Target::parse("postgres://ann:s3cret@db.example:6432/shop?sslmode=verify-full&application_name=x")
            .expect("a url");
        assert_eq!(target.to_string(), "postgres://ann@db.example:6432/shop");
        assert_eq!(target.tls.mode, SslMode::VerifyFull);
    }

    /// `invalid connection string` was all that was said of a port or a parameter, and `there is no sslmode` left it open
    /// which there are.
    #[test]
    fn what_is_wrong_with_a_url_is_named_with_what_would_be_right() {
        let told = |url: &str| match Target::parse(url) {
            Err(SourceError::NotReady { what, remedy }) => format!("{url}\n    {what}\n    {remedy}\n"),
            other => format!("{url}\n    {other:?}\n"),
        };
        let urls = [
            "postgres://ann:s3cret@db/shop?sslmode=maybe",
            "postgres://db:99999/shop",
            "postgres://db:port/shop",
            "postgres://db:0/shop",
            "postgres://db/shop?pool_size=5",
            "postgres://db/shop?sslmode=require&sslcert=x",
            "db/shop",
            "",
        ];
        expect![[r#"
            postgres://ann:s3cret@db/shop?sslmode=maybe
                there is no sslmode maybe
                write disable, prefer (as when it is left out), require, verify-ca or verify-full
            postgres://db:99999/shop
                the url of the database can't be read: invalid value for option `port`
                a port is a number from 1 to 65535
            postgres://db:port/shop
                the url of the database can't be read: invalid value for option `port`
                a port is a number from 1 to 65535
            postgres://db:0/shop
                the url of the database can't be read: nobody listens on port 0
                a port is a number from 1 to 65535
            postgres://db/shop?pool_size=5
                the url of the database can't be read: unknown option `pool_size`
                leave it out; sslmode and sslrootcert are what a url is asked for here
            postgres://db/shop?sslmode=require&sslcert=x
                the url of the database can't be read: unknown option `sslcert`
                leave it out; sslmode and sslrootcert are what a url is asked for here
            db/shop
                the url of the database can't be read: unexpected EOF
                write the url as postgres://user:password@host:5432/database

                the url of the database is empty
                write the url as postgres://user:password@host:5432/database
        "#]]
        .assert_eq(&urls.map(told).concat());
    }
}
