//! Signers, and a server of keys.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Longest wait for anything; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Making one takes a second, so that all tests share it.
static RSA: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"));
static EC: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"));

/// Has a key of one kind.
pub enum Signer {
    Secret(Vec<u8>),
    Rsa(&'static RsaKeyPair),
    Ec(&'static EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa() -> Signer {
        Signer::Rsa(&RSA)
    }

    pub fn ec() -> Signer {
        Signer::Ec(&EC)
    }

    /// A new one each time.
    pub fn ed() -> Signer {
        Signer::Ed(Ed25519KeyPair::generate().expect("a key"))
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Signer::Secret(_) => "HS256",
            Signer::Rsa(_) => "RS256",
            Signer::Ec(_) => "ES256",
            Signer::Ed(_) => "EdDSA",
        }
    }

    /// A token with this header and this content, whatever they say.
    pub fn sign(&self, header: &Value, content: &Value) -> String {
        let [header, content] = [header, content].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{content}");
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signed = match self {
            Signer::Secret(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), bytes).as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signed = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signed).expect("a signature");
                signed
            }
            Signer::Ec(key) => key.sign(&random, bytes).expect("a signature").as_ref().to_vec(),
            Signer::Ed(key) => key.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }

    /// A token of a key with this `kid`.
    pub fn token(&self, id: Option<&str>, content: &Value) -> String {
        let mut header = json!({ "alg": self.algorithm(), "typ": "JWT" });
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        self.sign(&header, content)
    }

    /// The public part.
    pub fn jwk(&self, id: &str) -> Value {
        let packed = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Signer::Secret(secret) => json!({ "kty": "oct", "kid": id, "k": packed(secret) }),
            Signer::Rsa(key) => {
                let parts: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                json!({ "kty": "RSA", "kid": id, "use": "sig", "n": packed(&parts.n), "e": packed(&parts.e) })
            }
            Signer::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": packed(x), "y": packed(y) })
            }
            Signer::Ed(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": packed(key.public_key().as_ref()) })
            }
        }
    }
}

/// Noon of the days that tests play in.
pub const NOON: u64 = 1_800_000_000;

/// A moment in seconds from noon.
pub fn noon(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOON.checked_add_signed(seconds).expect("a time"))
}

/// Claims of a token that is valid at noon, for five minutes.
pub fn content() -> Value {
    json!({ "sub": "ann", "role": "clerk", "iat": NOON, "exp": NOON + 300 })
}

/// How a server of keys answers.
#[derive(Clone)]
pub enum Answers {
    /// With these keys.
    Keys(Vec<Value>),
    /// With this status, these headers and this content.
    With(u16, Vec<(&'static str, String)>, String),
    /// Never.
    Never,
}

/// A server of keys on loopback.
pub struct KeyServer {
    pub address: SocketAddr,
    pub answers: Arc<Mutex<Answers>>,
    requests: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl KeyServer {
    pub async fn start(keys: Vec<Value>) -> KeyServer {
        KeyServer::start_at(([127, 0, 0, 1], 0).into(), keys, None).await
    }

    pub async fn start_at(address: SocketAddr, keys: Vec<Value>, tls: Option<TlsAcceptor>) -> KeyServer {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (answers, requests) = (Arc::new(Mutex::new(Answers::Keys(keys))), Arc::new(AtomicUsize::new(0)));
        let (shared, counted) = (Arc::clone(&answers), Arc::clone(&requests));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (shared, counted, tls) = (Arc::clone(&shared), Arc::clone(&counted), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(TokioIo::new(socket), &shared, &counted).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                answer(TokioIo::new(socket), &shared, &counted).await;
                            }
                        }
                    }
                });
            }
        });
        KeyServer { address, answers, requests, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys?of=shop", self.address)
    }

    pub fn now_answers(&self, answers: Answers) {
        *self.answers.lock().expect("no panic") = answers;
    }

    /// How often it has been asked.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Nobody listens any more when this returns.
    pub async fn stop(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        assert!(TcpStream::connect(self.address).await.is_err());
        self.address
    }
}

async fn answer(
    socket: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    answers: &Mutex<Answers>,
    requests: &AtomicUsize,
) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().to_string(), "/keys?of=shop");
        assert!(request.headers()["host"].to_str().expect("a text").contains(':'));
        requests.fetch_add(1, Ordering::SeqCst);
        let answers = answers.lock().expect("no panic").clone();
        let (status, headers, content) = match answers {
            Answers::Keys(keys) => (200, Vec::new(), json!({ "keys": keys }).to_string()),
            Answers::With(status, headers, content) => (status, headers, content),
            Answers::Never => std::future::pending().await,
        };
        let mut response = Response::new(Full::new(Bytes::from(content)));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().expect("a header"));
        }
        Ok::<_, Infallible>(response)
    });
    let _ = http1::Builder::new().serve_connection(socket, service).await;
}
