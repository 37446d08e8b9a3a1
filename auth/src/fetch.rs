//! One HTTP request for keys, bounded in time and size.
//!
//! The address is the operator's and is taken as it is: redirects are not followed, so that whoever
//! answers there can't send us elsewhere, and what is sent along are no credentials.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Time for the whole request, from the name's look-up to the last byte.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer. Sets of keys have a few thousand.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What is wrong with an address. For operators.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not `http://host/path` or `https://host/path`.
    #[error("the address is not of the form https://host/path")]
    BadForm,
    /// The file of authorities can't be read.
    #[error("can't read certificates from {}", .path.display())]
    BadAuthorities {
        /// Which file.
        path: PathBuf,
    },
}

/// Why there was no answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody there, or nobody who can prove to be it.
    #[error("can't connect")]
    Unreachable(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// Not 200.
    #[error("the answer is {status}{}", if .status.is_redirection() { ", and redirects are not followed" } else { "" })]
    Status {
        /// What it is.
        status: StatusCode,
    },
    /// More bytes than are taken.
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// The answer broke off.
    #[error("the answer broke off")]
    BrokeOff,
    /// Not within [`FETCH_TIMEOUT`].
    #[error("there was no answer within {} seconds", .0.as_secs_f64())]
    TooSlow(Duration),
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The content.
    pub body: Bytes,
    /// For how long it is fresh, if the server says so; zero when it is not to be kept.
    pub max_age: Option<Duration>,
}

/// Where keys are asked for.
pub struct Address {
    host: String,
    port: u16,
    /// Host and port as the `Host` header has them.
    authority: String,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Address {
    /// Reads `http://host[:port]/path` or `https://…`. Certificates are checked against Mozilla's
    /// authorities, or only against those of a PEM file.
    ///
    /// # Errors
    /// When the address can't be read, or the file.
    pub fn parse(url: &str, authorities: Option<&Path>) -> Result<Address, AddressError> {
        let uri: Uri = url.parse().map_err(|_| AddressError::BadForm)?;
        let authority = uri.authority().ok_or(AddressError::BadForm)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // User and password would be in logs.
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(AddressError::BadForm);
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| AddressError::BadForm)?;
                Some((TlsConnector::from(Arc::new(tls_config(authorities)?)), name))
            }
            _ => return Err(AddressError::BadForm),
        };
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Address { host, port, authority: authority.as_str().to_owned(), path, tls, timeout: FETCH_TIMEOUT })
    }

    /// With another time limit.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Address {
        Address { timeout, ..self }
    }

    /// Whether what is answered may be changed on its way: no TLS, and not from this very machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let is_loopback =
            self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.tls.is_none() && !is_loopback
    }

    /// Asks once.
    ///
    /// # Errors
    /// With what went wrong; it may go better later.
    pub async fn fetch(&self) -> Result<Answer, FetchError> {
        tokio::time::timeout(self.timeout, self.ask()).await.unwrap_or(Err(FetchError::TooSlow(self.timeout)))
    }

    async fn ask(&self) -> Result<Answer, FetchError> {
        let socket = TcpStream::connect((&*self.host, self.port)).await.map_err(FetchError::Unreachable)?;
        match &self.tls {
            None => self.ask_over(socket).await,
            Some((connector, name)) => {
                let socket = connector.connect(name.clone(), socket).await.map_err(FetchError::Unreachable)?;
                self.ask_over(socket).await
            }
        }
    }

    async fn ask_over(
        &self,
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Answer, FetchError> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(FetchError::Broken)?;
        // Ends with this request, also when it is given up half-way.
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        for (name, value) in [
            (HOST, &*self.authority),
            (ACCEPT, "application/jwk-set+json, application/json"),
            (USER_AGENT, concat!("deltafront/", env!("CARGO_PKG_VERSION"))),
        ] {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
        let response = sender.send_request(request).await.map_err(FetchError::Broken)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { status: response.status() });
        }
        let max_age = max_age(response.headers());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::BrokeOff }
        })?;
        Ok(Answer { body: body.to_bytes(), max_age })
    }
}

fn tls_config(authorities: Option<&Path>) -> Result<ClientConfig, AddressError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let bad = || AddressError::BadAuthorities { path: path.to_owned() };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|_| bad())?;
            for certificate in certificates {
                roots.add(certificate.map_err(|_| bad())?).map_err(|_| bad())?;
            }
            if roots.is_empty() {
                return Err(bad());
            }
        }
    }
    // The provider is named: the process has two, and rustls would not choose between them.
    Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// `Cache-Control` (RFC 9111): what its `max-age` says, and zero when the answer is not to be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut found = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        match directive.split_once('=') {
            _ if directive == "no-store" || directive == "no-cache" => return Some(Duration::ZERO),
            Some(("max-age", seconds)) => {
                found = seconds.trim_matches('"').parse().ok().map(Duration::from_secs);
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use crate::testing::{KeyServer, Signer};

    #[test]
    fn an_answer_is_fresh_as_long_as_it_says() {
        let told = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CACHE_CONTROL, value.parse().expect("a header"));
            }
            max_age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&["public, max-age=600, must-revalidate"]), Some(600));
        assert_eq!(told(&["public", "Max-Age=\"60\""]), Some(60));
        assert_eq!(told(&["max-age=600, no-cache"]), Some(0));
        assert_eq!(told(&["no-store"]), Some(0));
        assert_eq!(told(&["max-age=-1"]), None);
        assert_eq!(told(&["s-maxage=5, private"]), None);
    }

    #[test]
    fn an_address_has_host_port_and_path() {
        for (url, expected) in [
            ("http://shop.example", "shop.example 80 shop.example / exposed"),
            ("http://shop.example:8080/keys?of=shop", "shop.example 8080 shop.example:8080 /keys?of=shop exposed"),
            ("https://shop.example/keys", "shop.example 443 shop.example /keys"),
            ("https://10.0.0.1:8443/keys", "10.0.0.1 8443 10.0.0.1:8443 /keys"),
            ("http://10.0.0.1/", "10.0.0.1 80 10.0.0.1 / exposed"),
            ("http://[::1]:8080/keys", "::1 8080 [::1]:8080 /keys"),
            ("http://localhost/", "localhost 80 localhost /"),
            ("http://127.0.0.1/", "127.0.0.1 80 127.0.0.1 /"),
        ] {
            let address = Address::parse(url, None).unwrap_or_else(|error| panic!("{url}: {error}"));
            let exposed = if address.is_exposed() { " exposed" } else { "" };
            let Address { host, port, authority, path, .. } = address;
            assert_eq!(format!("{host} {port} {authority} {path}{exposed}"), expected, "{url}");
        }
    }

    /// A server with a certificate of an authority of ours is believed by who trusts that one, under
    /// the name that the certificate has.
    #[tokio::test]
    async fn a_server_must_prove_who_it_is() {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned()];
        let certificate = CertificateParams::new(names).expect("a name").signed_by(&key, &issuer).expect("signed");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a certificate");
        let tls = TlsAcceptor::from(Arc::new(config));
        let keys = vec![Signer::ed().jwk("k")];
        let server = KeyServer::start_at(([127, 0, 0, 1], 0).into(), keys, Some(tls)).await;
        let folder = tempfile::tempdir().expect("a folder");
        let authorities = folder.path().join("authorities.pem");
        std::fs::write(&authorities, issuer.pem()).expect("written");

        let ask = |host: &str, authorities: Option<&Path>| {
            let url = format!("https://{host}:{}/keys?of=shop", server.address.port());
            let address = Address::parse(&url, authorities).expect("an address");
            async move { address.fetch().await.map(|answer| answer.body.len()).map_err(|error| error.to_string()) }
        };
        assert!(ask("localhost", Some(&authorities)).await.expect("an answer") > 50);
        assert_eq!(ask("localhost", None).await, Err("can't connect".to_owned()), "not one of Mozilla's");
        assert_eq!(ask("127.0.0.1", Some(&authorities)).await, Err("can't connect".to_owned()), "another name");
    }
}
