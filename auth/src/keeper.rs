//! The task that keeps the keys fresh: it does what [`Schedule`] decides.
//!
//! What was known stays known while the file can't be read or the address does not answer, for as long
//! as that takes: tokens of keys that were right an hour ago are more likely right than all wrong. It is
//! said in the log, and in [`KeyStatus`]. A key that is gone from an answer is gone at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

use crate::fetch::{Address, AddressError, FetchError};
use crate::key::{KeptIn, KeyError, KeySet};
use crate::schedule::{Pace, Schedule};

/// Bytes of a file of keys.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Where the keys are from.
#[derive(Clone)]
pub enum KeySource {
    /// A secret that the issuer has too, for HS256.
    Secret(String),
    /// A file with that, read again every few seconds.
    SecretFile(PathBuf),
    /// A file: public keys as PEM, or a JWK or JWKS. It is read again every few seconds.
    File(PathBuf),
    /// An address that answers with a JWKS.
    Address {
        /// `https://host/path`
        url: String,
        /// A PEM file with the authorities that certificates are checked against, in place of
        /// Mozilla's.
        authorities: Option<PathBuf>,
    },
}

/// Does not show secrets.
impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Secret(_) => f.write_str("Secret(…)"),
            KeySource::SecretFile(path) => f.debug_tuple("SecretFile").field(path).finish(),
            KeySource::File(path) => f.debug_tuple("File").field(path).finish(),
            KeySource::Address { url, .. } => f.debug_tuple("Address").field(url).finish(),
        }
    }
}

/// Why keys can't be loaded. For operators.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// The secret is not good enough.
    #[error("the secret can't be used")]
    BadSecret(#[source] KeyError),
    /// The file is not there, or may not be read.
    #[error("can't read the keys in {}", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: std::io::Error,
    },
    /// The file can be read, and holds no keys.
    #[error("the keys in {} can't be used", .path.display())]
    BadFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: KeyError,
    },
    /// Keys of one kind, and tokens of another.
    #[error("no token can hold: the keys are for {keys}, and tokens are taken that are signed with {taken}")]
    OtherAlgorithms {
        /// What the keys are for.
        keys: String,
        /// What is taken.
        taken: String,
    },
    /// The address as written is none.
    #[error("keys can't be asked for at the address that is configured")]
    BadAddress(#[source] AddressError),
    /// The address does not answer.
    #[error("keys can't be fetched")]
    NotFetched(#[source] FetchError),
    /// The address answers with something else.
    #[error("what the address answers can't be used")]
    BadAnswer(#[source] KeyError),
}

/// How it is with the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyStatus {
    /// How many are known.
    pub keys: usize,
    /// When they were last had from where they are kept; `None` before the first time.
    pub refreshed: Option<SystemTime>,
    /// How many attempts have failed since the start.
    pub failures: u64,
    /// Why the last attempt failed, if it did: what is known is then of [`KeyStatus::refreshed`].
    pub error: Option<String>,
}

/// What verifiers see.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub keys: Arc<KeySet>,
    /// How many attempts have ended, whatever came of them: who waits for one sees it here.
    pub attempts: u64,
    pub status: KeyStatus,
}

/// Keeps the keys fresh. Dropped, the keys stay what they are.
pub struct Keeper {
    origin: Origin,
    schedule: Schedule,
    known: watch::Sender<Known>,
    asked: Arc<Notify>,
}

enum Origin {
    Secret,
    File { path: PathBuf, content: Vec<u8>, parse: Parse },
    Address(Box<Address>),
}

/// What the bytes of a file are.
type Parse = fn(&[u8]) -> Result<KeySet, KeyError>;

/// Keys, and how long they are fresh. `None` when they are the ones that are known.
type Had = (Option<KeySet>, Option<Duration>);

impl Keeper {
    pub(crate) fn open(source: KeySource) -> Result<(Keeper, watch::Receiver<Known>, Arc<Notify>), KeyFault> {
        let (now, mut pace) = (Instant::now(), Pace::FILE);
        let (origin, keys) = match source {
            KeySource::Secret(secret) => {
                (Origin::Secret, Some(KeySet::from_secret(secret.as_bytes()).map_err(KeyFault::BadSecret)?))
            }
            KeySource::File(path) => Keeper::of_file(path, KeySet::from_file)?,
            KeySource::SecretFile(path) => Keeper::of_file(path, KeySet::from_secret_file)?,
            KeySource::Address { url, authorities } => {
                let address = Address::parse(&url, authorities.as_deref()).map_err(KeyFault::BadAddress)?;
                if address.is_exposed() {
                    tracing::warn!(url, "keys are fetched without TLS: who can change what is answered can sign in");
                }
                pace = Pace::ADDRESS;
                (Origin::Address(Box::new(address)), None)
            }
        };
        let known = watch::Sender::new(Known::default());
        let mut schedule = Schedule::new(pace, now);
        if let Some(keys) = keys {
            schedule.succeeded(now, None);
            known.send_modify(|known| known.take(keys));
        }
        let (asked, receiver) = (Arc::new(Notify::new()), known.subscribe());
        Ok((Keeper { origin, schedule, known, asked: Arc::clone(&asked) }, receiver, asked))
    }

    fn of_file(path: PathBuf, parse: Parse) -> Result<(Origin, Option<KeySet>), KeyFault> {
        let content = read(&path)?;
        let keys = parsed(&path, &content, parse)?;
        Ok((Origin::File { path, content, parse }, Some(keys)))
    }

    /// With another pace, and another time limit for a request.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace, timeout: Duration) -> Keeper {
        self.schedule = Schedule::new(pace, Instant::now());
        if let Origin::Address(address) = self.origin {
            self.origin = Origin::Address(Box::new(address.within(timeout)));
        }
        self
    }

    /// Keeps the keys fresh until every verifier is gone. With a secret there is nothing to do, and it
    /// returns.
    pub async fn run(mut self) {
        while !matches!(self.origin, Origin::Secret) {
            tokio::select! {
                () = self.known.closed() => return,
                () = sleep_until(self.schedule.due().into()) => self.attempt().await,
                () = self.asked.notified() => self.schedule.asked(Instant::now()),
            }
        }
    }

    async fn attempt(&mut self) {
        let had = match &mut self.origin {
            Origin::Secret => return,
            Origin::File { path, content, parse } => reread(path, content, *parse).await,
            Origin::Address(address) => fetch(address).await,
        };
        let now = Instant::now();
        match had {
            Ok((keys, max_age)) => {
                self.schedule.succeeded(now, max_age);
                if let Some(keys) = &keys {
                    for why in &keys.skipped {
                        tracing::debug!(why, "a key is not used");
                    }
                }
                let is_better = self.known.borrow().status.error.is_some();
                self.known.send_modify(|known| match keys {
                    Some(keys) => known.take(keys),
                    None => known.stay(),
                });
                if is_better {
                    tracing::info!("keys can be had again");
                }
            }
            Err(fault) => {
                self.schedule.failed(now);
                let error = chain(&fault);
                let keys = self.known.borrow().keys.len();
                tracing::warn!(error, keys, "can't refresh the keys that tokens are checked with");
                self.known.send_modify(|known| known.fail(error));
            }
        }
    }
}

impl Known {
    fn take(&mut self, keys: KeySet) {
        self.keys = Arc::new(keys);
        self.stay();
    }

    fn stay(&mut self) {
        self.attempts += 1;
        let (keys, failures) = (self.keys.len(), self.status.failures);
        self.status = KeyStatus { keys, refreshed: Some(SystemTime::now()), failures, error: None };
    }

    fn fail(&mut self, error: String) {
        self.attempts += 1;
        self.status.failures += 1;
        self.status.error = Some(error);
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeyFault> {
    use std::io::Read;
    let unreadable = |cause| KeyFault::Unreadable { path: path.to_owned(), cause };
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(content)
}

fn parsed(path: &Path, content: &[u8], parse: Parse) -> Result<KeySet, KeyFault> {
    parse(content).map_err(|cause| KeyFault::BadFile { path: path.to_owned(), cause })
}

/// The whole file, each time: it is small, and times of change are too coarse, and do not follow the
/// links by which containers are given files.
async fn reread(path: &Path, content: &mut Vec<u8>, parse: Parse) -> Result<Had, KeyFault> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || (read(&path), path)).await;
    let (new, path) = read.expect("reading a file does not panic");
    let new = new?;
    if new == *content {
        return Ok((None, None));
    }
    let keys = parsed(&path, &new, parse)?;
    *content = new;
    tracing::info!(path = %path.display(), keys = keys.len(), "the file of keys has changed");
    Ok((Some(keys), None))
}

async fn fetch(address: &Address) -> Result<Had, KeyFault> {
    let answer = address.fetch().await.map_err(KeyFault::NotFetched)?;
    let keys = KeySet::from_json(&answer.body, KeptIn::Address).map_err(KeyFault::BadAnswer)?;
    Ok((Some(keys), answer.max_age))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::SocketAddr;

    use expect_test::expect;
    use serde_json::Value;

    use crate::testing::{Answers, KeyServer, PATIENCE, Signer, content, noon};
    use crate::{AuthError, Rules, Verifier};

    /// Keys get old slowly; what goes wrong is tried again soon.
    const PACE: Pace = Pace {
        age: Duration::from_secs(3600),
        age_bounds: (Duration::from_millis(1), Duration::from_secs(3600)),
        asked_pause: Duration::from_millis(50),
        retry: (Duration::from_millis(5), Duration::from_millis(20)),
    };

    fn verifier(source: KeySource, pace: Pace) -> Verifier {
        let (verifier, keeper) = Verifier::open(source, Rules::default()).expect("keys, or an address");
        tokio::spawn(keeper.with_pace(pace, Duration::from_millis(200)).run());
        verifier
    }

    fn of(server: &KeyServer) -> Verifier {
        verifier(KeySource::Address { url: server.url(), authorities: None }, PACE)
    }

    async fn answer(verifier: &Verifier, token: &str) -> Result<String, AuthError> {
        let answer = tokio::time::timeout(PATIENCE, verifier.verify_fetching(token, noon(0))).await;
        answer.expect("an answer in time").map(|claims| claims.subject().unwrap_or_default().to_owned())
    }

    /// Waits until it is so.
    async fn status(verifier: &Verifier, is_wanted: impl Fn(&KeyStatus) -> bool) -> KeyStatus {
        let mut known = verifier.watch();
        let waiting = known.wait_for(|known| is_wanted(&known.status));
        tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("a keeper").status.clone()
    }

    fn ann() -> Result<String, AuthError> {
        Ok("ann".to_owned())
    }

    #[tokio::test]
    async fn keys_rotate_without_a_restart() {
        let (old, new) = (Signer::ed(), Signer::ed());
        let server = KeyServer::start(vec![old.jwk("old")]).await;
        let verifier = of(&server);
        let (by_old, by_new) = (old.token(Some("old"), &content()), new.token(Some("new"), &content()));
        assert_eq!(answer(&verifier, &by_old).await, ann());
        assert_eq!(answer(&verifier, &by_new).await, Err(AuthError::UnknownKey));
        // The first client with the new key is heard, and the old key is good while the server has it.
        server.now_answers(Answers::Keys(vec![old.jwk("old"), new.jwk("new")]));
        assert_eq!(answer(&verifier, &by_new).await, ann());
        assert_eq!(verifier.verify(&by_old, noon(0)).map(drop), Ok(()));
        server.now_answers(Answers::Keys(vec![new.jwk("new")]));
        assert_eq!(answer(&verifier, &Signer::ed().token(Some("x"), &content())).await, Err(AuthError::UnknownKey));
        assert_eq!(answer(&verifier, &by_old).await, Err(AuthError::UnknownKey));
        assert_eq!((verifier.status().keys, verifier.status().failures), (1, 0));
    }

    /// A key without a name may have been replaced: a wrong signature is reason to look.
    #[tokio::test]
    async fn keys_without_names_rotate_too() {
        let nameless = |signer: &Signer| {
            let mut jwk = signer.jwk("");
            jwk.as_object_mut().expect("an object").remove("kid");
            jwk
        };
        let (old, new) = (Signer::ed(), Signer::ed());
        let server = KeyServer::start(vec![nameless(&old)]).await;
        let verifier = of(&server);
        assert_eq!(answer(&verifier, &old.token(None, &content())).await, ann());
        assert_eq!(answer(&verifier, &new.token(None, &content())).await, Err(AuthError::BadSignature));
        server.now_answers(Answers::Keys(vec![nameless(&new)]));
        assert_eq!(answer(&verifier, &new.token(None, &content())).await, ann());
    }

    /// Start-up does not wait for the address; who comes meanwhile is told to come back.
    #[tokio::test]
    async fn an_address_that_is_out_of_reach_at_first() {
        let signer = Signer::ed();
        let address = KeyServer::start(Vec::new()).await.stop().await;
        let url = format!("http://{address}/keys?of=shop");
        let verifier = verifier(KeySource::Address { url, authorities: None }, PACE);
        let token = signer.token(Some("k"), &content());
        assert_eq!(verifier.verify(&token, noon(0)), Err(AuthError::KeysUnavailable));
        assert_eq!(answer(&verifier, &token).await, Err(AuthError::KeysUnavailable));
        let status_now = status(&verifier, |status| status.failures >= 2).await;
        assert_eq!((status_now.keys, status_now.refreshed), (0, None));
        assert!(status_now.error.expect("a reason").starts_with("keys can't be fetched: can't connect: "));
        let _server = KeyServer::start_at(address, vec![signer.jwk("k")], None).await;
        status(&verifier, |status| status.keys == 1 && status.error.is_none()).await;
        assert_eq!(answer(&verifier, &token).await, ann());
    }

    /// Whatever the server does, its last good answer stands.
    #[tokio::test]
    async fn keys_are_kept_while_none_can_be_had() {
        let signer = Signer::ed();
        let good = vec![signer.jwk("k")];
        let server = KeyServer::start(good.clone()).await;
        // Old after a moment, so that it is asked again and again.
        let pace = Pace { age: Duration::from_millis(5), ..PACE };
        let verifier = verifier(KeySource::Address { url: server.url(), authorities: None }, pace);
        let token = signer.token(Some("k"), &content());
        assert_eq!(answer(&verifier, &token).await, ann());
        let plain = |status, content: &str| Answers::With(status, Vec::new(), content.to_owned());
        let redirect = vec![("location", format!("http://{}/keys?of=shop", server.address))];
        let failures = [
            plain(500, ""),
            plain(404, "{}"),
            Answers::With(302, redirect, String::new()),
            plain(200, "<html>"),
            plain(200, "{}"),
            plain(200, r#"{"keys":[]}"#),
            plain(200, &serde_json::json!({ "keys": [Signer::Secret(vec![7; 32]).jwk("k")] }).to_string()),
            plain(200, &" ".repeat(crate::fetch::ANSWER_BYTES_MAX + 1)),
            Answers::Never,
        ];
        let mut told = String::new();
        for answers in failures {
            let before = verifier.status().failures;
            server.now_answers(answers);
            // The second is certain to be of this answer.
            let failing = status(&verifier, |status| status.failures >= before + 2).await;
            told += &format!("{}\n", failing.error.expect("a reason"));
            assert_eq!(failing.keys, 1);
            assert_eq!(verifier.verify(&token, noon(0)).map(drop), Ok(()));
            let unknown = Signer::ed().token(Some("x"), &content());
            assert_eq!(answer(&verifier, &unknown).await, Err(AuthError::KeysUnavailable), "it may be known there");
            server.now_answers(Answers::Keys(good.clone()));
            status(&verifier, |status| status.error.is_none()).await;
        }
        expect![[r#"
            keys can't be fetched: the answer is 500 Internal Server Error
            keys can't be fetched: the answer is 404 Not Found
            keys can't be fetched: the answer is 302 Found, and redirects are not followed
            what the address answers can't be used: the JSON is neither a JWK nor a JWKS
            what the address answers can't be used: the JSON is neither a JWK nor a JWKS
            what the address answers can't be used: none of the 0 keys can be used
            what the address answers can't be used: none of the 1 keys can be used; the first: a secret that others can read is none
            keys can't be fetched: the answer has more than 262144 bytes
            keys can't be fetched: there was no answer within 0.2 seconds
        "#]].assert_eq(&told);
        let refreshed = verifier.status().refreshed;
        let address = server.stop().await;
        let failures = verifier.status().failures;
        let down = status(&verifier, |status| status.failures > failures + 2).await;
        assert!(down.refreshed >= refreshed && down.refreshed.is_some());
        assert_eq!(answer(&verifier, &token).await, ann());
        let _back: (SocketAddr, KeyServer) = (address, KeyServer::start_at(address, good, None).await);
        status(&verifier, |status| status.error.is_none()).await;
    }

    /// Tokens of keys that nobody has, from many at once and for a while: the server of keys hears of it
    /// at the pace that is set, and good tokens pass meanwhile.
    #[tokio::test]
    async fn unknown_keys_are_no_way_to_make_us_ask() {
        let signer = Signer::ed();
        let server = KeyServer::start(vec![signer.jwk("k")]).await;
        let verifier = of(&server);
        let good = signer.token(Some("k"), &content());
        assert_eq!(answer(&verifier, &good).await, ann());
        let started = Instant::now();
        for round in 0..5 {
            let asking: Vec<_> = (0..200)
                .map(|i| {
                    let verifier = verifier.clone();
                    let token = Signer::ed().token(Some(&format!("{round}-{i}")), &content());
                    tokio::spawn(async move { verifier.verify_fetching(&token, noon(0)).await.map(drop) })
                })
                .collect();
            assert_eq!(verifier.verify(&good, noon(0)).map(drop), Ok(()));
            for answered in asking {
                let answered = tokio::time::timeout(PATIENCE, answered).await.expect("an answer in time");
                assert_eq!(answered.expect("no panic"), Err(AuthError::UnknownKey));
            }
        }
        let allowed = 2 + started.elapsed().as_millis() / PACE.asked_pause.as_millis();
        assert!(server.requests() as u128 <= allowed, "{} requests, {allowed} allowed", server.requests());
        // What needs no newer key to be refused brings about no request.
        let before = server.requests();
        for token in ["nonsense", &Signer::ed().token(Some("k"), &content())] {
            assert!(answer(&verifier, token).await.is_err());
        }
        tokio::time::sleep(PACE.asked_pause * 2).await;
        assert_eq!(server.requests(), before);
    }

    /// `Cache-Control` decides when it is asked again.
    #[tokio::test]
    async fn the_server_says_how_long_its_answer_is_fresh() {
        let server = KeyServer::start(vec![Signer::ed().jwk("k")]).await;
        let keys = serde_json::json!({ "keys": [Signer::ed().jwk("k")] }).to_string();
        let with = |said: &str| Answers::With(200, vec![("cache-control", said.to_owned())], keys.clone());
        server.now_answers(with("no-store"));
        let verifier = of(&server);
        while server.requests() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.now_answers(with("public, max-age=3600"));
        let mut asked = server.requests();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if std::mem::replace(&mut asked, server.requests()) == server.requests() {
                break;
            }
        }
        assert_eq!(verifier.status().error, None);
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        let write = |keys: &[Value]| {
            std::fs::write(&path, serde_json::json!({ "keys": keys }).to_string()).expect("written");
        };
        let (old, new) = (Signer::ed(), Signer::ed());
        write(&[old.jwk("old")]);
        let pace = Pace { age: Duration::from_millis(5), ..PACE };
        let verifier = verifier(KeySource::File(path.clone()), pace);
        let (by_old, by_new) = (old.token(Some("old"), &content()), new.token(Some("new"), &content()));
        assert_eq!(verifier.verify(&by_old, noon(0)).map(drop), Ok(()), "at once");
        assert_eq!(answer(&verifier, &by_new).await, Err(AuthError::UnknownKey));
        write(&[old.jwk("old"), new.jwk("new")]);
        status(&verifier, |status| status.keys == 2).await;
        assert_eq!(answer(&verifier, &by_new).await, ann());
        // Half written, or gone: what was known stays.
        std::fs::write(&path, r#"{"keys":["#).expect("written");
        let failing = status(&verifier, |status| status.error.is_some()).await;
        assert!(
            failing.error.expect("a reason").ends_with("keys.json can't be used: the JSON is neither a JWK nor a JWKS")
        );
        std::fs::remove_file(&path).expect("removed");
        status(&verifier, |status| status.error.as_ref().is_some_and(|error| error.contains("can't read"))).await;
        assert_eq!(answer(&verifier, &by_old).await, ann());
        write(&[old.jwk("old"), new.jwk("new")]);
        status(&verifier, |status| status.error.is_none() && status.keys == 2).await;
    }

    #[test]
    fn what_is_wrong_at_the_start_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("written");
            path
        };
        let at = |url: &str| KeySource::Address { url: url.to_owned(), authorities: None };
        let sources = [
            KeySource::Secret("short".to_owned()),
            KeySource::File(folder.path().join("none")),
            KeySource::File(file("empty", b"")),
            KeySource::SecretFile(file("none either", b"")),
            KeySource::SecretFile(file("key.pem", b"-----BEGIN PUBLIC KEY-----")),
            KeySource::File(file("huge", &vec![b'x'; 256 * 1024 + 1])),
            at("keys.json"),
            at("ftp://shop.example/keys"),
            at("https://me:secret@shop.example/keys"),
            at("https:///keys"),
            KeySource::Address {
                url: "https://shop.example/keys".to_owned(),
                authorities: Some(file("authorities", b"none")),
            },
        ];
        let mut told = String::new();
        for source in sources {
            let shown = format!("{source:?}");
            let fault = Verifier::open(source, Rules::default()).map(drop).expect_err("a fault");
            told +=
                &format!("{shown}\n    {}\n", chain(&fault)).replace(&folder.path().display().to_string(), "FOLDER");
        }
        expect![[r#"
            Secret(…)
                the secret can't be used: the secret has 5 bytes; HS256 needs at least 32
            File("FOLDER/none")
                can't read the keys in FOLDER/none: No such file or directory (os error 2)
            File("FOLDER/empty")
                the keys in FOLDER/empty can't be used: the file is neither PEM nor a JWK or JWKS; of a key in another form, make PEM (openssl pkey -pubin -inform DER), and name a file with a secret by secret_file
            SecretFile("FOLDER/none either")
                the keys in FOLDER/none either can't be used: the secret has 0 bytes; HS256 needs at least 32
            SecretFile("FOLDER/key.pem")
                the keys in FOLDER/key.pem can't be used: this is a key or a document, and no secret: whoever has it could sign tokens; a key goes into key_file
            File("FOLDER/huge")
                can't read the keys in FOLDER/huge: it has more than 262144 bytes
            Address("keys.json")
                keys can't be asked for at the address that is configured: the address is not of the form https://host/path
            Address("ftp://shop.example/keys")
                keys can't be asked for at the address that is configured: the address is not of the form https://host/path
            Address("https://me:secret@shop.example/keys")
                keys can't be asked for at the address that is configured: the address is not of the form https://host/path
            Address("https:///keys")
                keys can't be asked for at the address that is configured: the address is not of the form https://host/path
            Address("https://shop.example/keys")
                keys can't be asked for at the address that is configured: can't read certificates from FOLDER/authorities
        "#]].assert_eq(&told);
        assert!(Verifier::open(KeySource::SecretFile(file("most", &vec![b'x'; 256 * 1024])), Rules::default()).is_ok());
    }

    /// With a secret there is nothing to wait for.
    #[tokio::test]
    async fn a_secret_is_what_it_is() {
        let secret = "a secret of at least thirty-two bytes";
        let rules = Rules { clock_skew: Duration::from_secs(7), ..Rules::default() };
        let (verifier, keeper) = Verifier::open(KeySource::Secret(secret.to_owned()), rules.clone()).expect("a key");
        let keeping = tokio::spawn(keeper.run());
        let signer = Signer::Secret(secret.as_bytes().to_vec());
        assert_eq!(answer(&verifier, &signer.token(None, &content())).await, ann());
        assert_eq!(answer(&verifier, &Signer::ed().token(None, &content())).await, Err(AuthError::UnknownKey));
        tokio::time::timeout(PATIENCE, keeping).await.expect("it ends").expect("no panic");
        assert_eq!((verifier.status().keys, verifier.rules()), (1, &rules));
    }

    /// The task ends with the last verifier.
    #[tokio::test]
    async fn a_keeper_that_nobody_needs_ends() {
        let server = KeyServer::start(vec![Signer::ed().jwk("k")]).await;
        let source = KeySource::Address { url: server.url(), authorities: None };
        let (verifier, keeper) = Verifier::open(source, Rules::default()).expect("an address");
        let keeping = tokio::spawn(keeper.run());
        drop(verifier);
        tokio::time::timeout(PATIENCE, keeping).await.expect("it ends").expect("no panic");
    }
}
