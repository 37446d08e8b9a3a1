//! Who a client is, for as long as its session lasts.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use crate::protocol::Refusal;
use crate::signal::Signal;
use crate::viewer::Viewer;

/// Who has shown a token that holds.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What policies know of it.
    pub viewer: Viewer,
    /// Whom the token is about.
    pub subject: Option<Arc<str>>,
    /// When the token's time is over.
    pub expires: Option<SystemTime>,
}

impl Identity {
    /// Until the token holds no longer, with so much grace; `None` when its time has no end.
    #[must_use]
    pub fn time_left(&self, grace: Duration) -> Option<Duration> {
        Some((self.expires? + grace).duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// An answer that may have to be fetched.
pub type Identifying = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send>>;

/// Knows who is who.
pub trait Authenticator: Send + Sync {
    /// Whose token this is. The refusal is for the one who sent it.
    fn identify(&self, token: String) -> Identifying;

    /// The cookie in which a token may be.
    fn cookie(&self) -> Option<&str>;

    /// How long a session goes on after its token has expired, for a new one to come.
    fn grace(&self) -> Duration;

    /// Whether there is anything that proves an administrator.
    fn has_admins(&self) -> bool;

    /// Whether this proves an administrator.
    fn is_admin(&self, token: &str) -> bool;

    /// From now on no token that was issued for this subject before holds.
    fn revoke(&self, subject: &str);
}

/// Takes no tokens: everybody is nobody in particular.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strangers;

impl Authenticator for Strangers {
    fn identify(&self, _: String) -> Identifying {
        let message = "this server takes no tokens; its deltafront.toml has no [auth]";
        Box::pin(std::future::ready(Err(Refusal::new("invalid_token", message))))
    }

    fn cookie(&self) -> Option<&str> {
        None
    }

    fn grace(&self) -> Duration {
        Duration::ZERO
    }

    fn has_admins(&self) -> bool {
        false
    }

    fn is_admin(&self, _: &str) -> bool {
        false
    }

    fn revoke(&self, _: &str) {}
}

/// The sessions of each subject.
#[derive(Debug, Default)]
pub struct Subjects(Mutex<HashMap<Arc<str>, Vec<Weak<Signal>>>>);

impl Subjects {
    /// A session is this subject's from now on. Answers whether there is room for it.
    pub fn add(&self, subject: &Arc<str>, session: &Arc<Signal>, at_most: usize) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = all.entry(Arc::clone(subject)).or_default();
        sessions.retain(|held| held.strong_count() > 0 && !std::ptr::eq(held.as_ptr(), Arc::as_ptr(session)));
        if sessions.len() >= at_most {
            return false;
        }
        sessions.push(Arc::downgrade(session));
        true
    }

    /// A session is not this subject's any more.
    pub fn remove(&self, subject: &Arc<str>, session: &Arc<Signal>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = all.get_mut(subject) {
            sessions.retain(|held| held.strong_count() > 0 && !std::ptr::eq(held.as_ptr(), Arc::as_ptr(session)));
            if sessions.is_empty() {
                all.remove(subject);
            }
        }
    }

    /// Ends all sessions of a subject. Answers how many there were.
    pub fn cut(&self, subject: &str) -> usize {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(subject).unwrap_or_default();
        let alive: Vec<Arc<Signal>> = sessions.iter().filter_map(Weak::upgrade).collect();
        for session in &alive {
            session.cut();
        }
        alive.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::{Expect, expect};

    use super::super::ServeOptions;
    use super::super::testing::{Client, PATIENCE, People, Served, get, post, request};
    use crate::model;

    /// A server of `keyed`, in which a client sees its own rows and administrators all.
    async fn served(options: ServeOptions) -> Served {
        let hub = model::hub(1 << 20);
        model::publish(&hub, 1, &[], &[(1, Some("ann"), Some(5)), (2, Some("bob"), Some(6)), (3, None, None)]);
        Served::start_with(hub, options, Arc::new(People::default())).await
    }

    const SUBSCRIBE: &str = r#"{"op":"subscribe","id":"a","projection":"keyed"}"#;

    fn authenticate(token: &str) -> String {
        format!(r#"{{"op":"authenticate","token":"{token}"}}"#)
    }

    /// What matters of a message: what it is, and the rows that come and go.
    fn short(message: &str) -> String {
        let message: serde_json::Value = serde_json::from_str(message).expect("JSON");
        let mut told = message["op"].as_str().unwrap_or_default().to_owned();
        let diff = if message["diffs"].is_array() { &message["diffs"][0] } else { &message };
        for name in ["code", "message", "resumed", "reset", "rows", "upsert", "delete"] {
            let value = if name == "rows" { &message[name] } else { &diff[name] };
            if !value.is_null() {
                told += &format!(" {name}={value}");
            }
        }
        told
    }

    /// What a client is answered to each of these, a line each.
    async fn check(client: &mut Client, asked: &[&str], expected: Expect) {
        let mut told = String::new();
        for text in asked {
            told += &(short(&client.ask(text).await) + "\n");
        }
        expected.assert_eq(&told);
    }

    /// A stranger sees what is for strangers, as in Postgres: of this projection no row. Whoever shows a
    /// token sees what is for it, and one that does not hold changes nothing.
    #[tokio::test]
    async fn a_token_opens_what_is_for_its_subject() {
        let served = served(ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        check(
            &mut client,
            &[SUBSCRIBE, &authenticate("thief"), &authenticate("ann")],
            expect![[r#"
                image rows=[]
                error code="invalid_token" message="the token's signature is wrong"
                authenticated
            "#]],
        )
        .await;
        assert_eq!(short(&client.next().await), "image resumed=true rows=[]");
        assert_eq!(short(&client.next().await), r#"image rows=[] upsert=[[1,"ann",5]]"#);
        model::publish(&served.hub, 2, &[], &[(4, Some("bob"), None), (5, Some("ann"), None)]);
        assert_eq!(short(&client.next().await), r#"diff upsert=[[5,"ann",null]]"#);
    }

    /// The session goes on, and the client is told what came into sight and what went out of it.
    #[tokio::test]
    async fn a_new_token_changes_the_view_by_diffs() {
        let served = served(ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        check(
            &mut client,
            &[&authenticate("ann"), SUBSCRIBE, &authenticate("bob")],
            expect![[r#"
                authenticated
                image rows=[[1,"ann",5]]
                authenticated
            "#]],
        )
        .await;
        assert_eq!(short(&client.next().await), "image resumed=true rows=[]");
        assert_eq!(short(&client.next().await), r#"image rows=[] upsert=[[2,"bob",6]] delete=[[1]]"#);
        assert_eq!(short(&client.ask(&authenticate("admin")).await), "authenticated");
        assert_eq!(short(&client.next().await), "image resumed=true rows=[]");
        assert_eq!(short(&client.next().await), r#"image rows=[] upsert=[[1,"ann",5],[3,null,null]]"#);
    }

    /// A heartbeat says "complete up to here". One that came right behind a new token did so while the
    /// client still held what the old one showed, of a window until its image had come anew.
    #[tokio::test]
    async fn a_new_token_is_told_of_before_anything_is_complete() {
        let served = served(ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        client.send(authenticate("ann")).await;
        client.send(SUBSCRIBE).await;
        client.send(r#"{"op":"subscribe","id":"w","projection":"keyed","limit":2}"#).await;
        let mut images = 0;
        while images < 2 {
            images += usize::from(client.next().await.contains(r#""last":true"#));
        }
        client.send(authenticate("bob")).await;
        client.send(r#"{"op":"ping"}"#).await;
        let mut told = Vec::new();
        while told.len() < 6 {
            let message = short(&client.next().await);
            // Pieces of nothing come and go.
            if message != "image rows=[]" {
                told.push(message);
            }
        }
        let at = |message: &str| told.iter().position(|told| told == message).expect(message);
        let begins = [r#"image reset="claims" rows=[]"#, "image resumed=true rows=[]"].map(at);
        assert!(begins.iter().all(|begin| *begin < at("heartbeat")), "{told:?}");
        assert!(begins[0] < at(r#"image rows=[[2,"bob",6]]"#), "{told:?}");
        assert!(begins[1] < at(r#"image rows=[] upsert=[[2,"bob",6]] delete=[[1]]"#), "{told:?}");
    }

    /// A client need not wait for the answer to its token: what it asks meanwhile is answered to the
    /// one that the token is of.
    #[tokio::test]
    async fn what_is_asked_behind_a_token_is_asked_by_its_subject() {
        let served = served(ServeOptions::default()).await;
        let mut client = Client::connect(&served).await;
        client.send(authenticate("thief")).await;
        client.send(authenticate("ann")).await;
        client.send(SUBSCRIBE).await;
        for expected in [
            r#"error code="invalid_token" message="the token's signature is wrong""#,
            "authenticated",
            r#"image rows=[[1,"ann",5]]"#,
        ] {
            assert_eq!(short(&client.next().await), expected);
        }
    }

    /// In a header, or as a subprotocol from a browser: then the session begins as its subject's.
    #[tokio::test]
    async fn a_token_may_come_with_the_request() {
        let served = served(ServeOptions::default()).await;
        let mut client =
            Client::try_connect_with(&served, &[("authorization", "Bearer ann")]).await.expect("a session");
        assert_eq!(short(&client.next().await), "authenticated");
        assert_eq!(short(&client.ask(SUBSCRIBE).await), r#"image rows=[[1,"ann",5]]"#);
        assert!(Client::try_connect_with(&served, &[("authorization", "Bearer thief")]).await.is_none());
        for (offered, status) in [("deltafront, bearer.YW5u", 101), ("deltafront, bearer.dGhpZWY", 401)] {
            let headers = [
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", offered),
            ];
            let answer = request(served.address, "GET /v1/socket", &headers).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), status);
            let chosen = answer.headers().get("sec-websocket-protocol");
            assert_eq!(chosen.is_some_and(|chosen| chosen == "deltafront"), status == 101, "never with the token");
        }
    }

    #[tokio::test]
    async fn rest_has_the_same_policies() {
        let served = served(ServeOptions::default()).await;
        let mut told = String::new();
        for token in ["", "ann", "admin", "thief"] {
            for path in ["/v1/projections/k%65yed", "/v1/projections/keyed/errors", "/v1/projections"] {
                let bearer = format!("Bearer {token}");
                let headers = [("authorization", &*bearer)];
                let headers = if token.is_empty() { &[][..] } else { &headers };
                let (status, body) = get(served.address, &format!("GET {path}"), headers).await;
                let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                let names = |list: &serde_json::Value| {
                    let names = list.as_array().into_iter().flatten().map(|it| it["name"].to_string());
                    names.collect::<Vec<_>>().join(" ")
                };
                let shown = match &body {
                    body if body["rows"].is_array() => body["rows"].to_string(),
                    body if body["projections"].is_array() => names(&body["projections"]),
                    body if body["code"].is_string() => body["code"].to_string(),
                    body => body["withheld_rows"].to_string(),
                };
                told += &format!("{token:5} {path:30} {status} {shown}\n");
            }
        }
        expect![[r#"
                  /v1/projections/k%65yed        200 []
                  /v1/projections/keyed/errors   401 "forbidden"
                  /v1/projections                200 "keyed" "bag"
            ann   /v1/projections/k%65yed        200 [[1,"ann",5]]
            ann   /v1/projections/keyed/errors   401 "forbidden"
            ann   /v1/projections                200 "keyed" "bag"
            admin /v1/projections/k%65yed        200 [[1,"ann",5],[2,"bob",6],[3,null,null]]
            admin /v1/projections/keyed/errors   401 "forbidden"
            admin /v1/projections                200 "keyed" "bag"
            thief /v1/projections/k%65yed        401 "invalid_token"
            thief /v1/projections/keyed/errors   401 "forbidden"
            thief /v1/projections                401 "invalid_token"
        "#]]
        .assert_eq(&told);
    }

    fn millis_from_now(millis: u64) -> u128 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        (now + Duration::from_millis(millis)).as_millis()
    }

    /// A grace period lets the client bring a new token; without one its session ends.
    #[tokio::test]
    async fn a_token_that_expires_ends_its_session_unless_a_new_one_comes() {
        let served = served(ServeOptions::default()).await;
        let (mut lazy, mut keen) = (Client::connect(&served).await, Client::connect(&served).await);
        let asked = std::time::Instant::now();
        let soon = authenticate(&format!("ann@{}", millis_from_now(1000)));
        for client in [&mut lazy, &mut keen] {
            assert_eq!(short(&client.ask(&soon).await), "authenticated");
            assert_eq!(short(&client.ask(SUBSCRIBE).await), r#"image rows=[[1,"ann",5]]"#);
        }
        let later = authenticate(&format!("ann@{}", millis_from_now(600_000)));
        assert_eq!(short(&keen.ask(&later).await), "authenticated");
        assert_eq!(lazy.closed().await, (4001, "the token has expired".to_owned()));
        assert!(asked.elapsed() >= Duration::from_millis(1100), "{:?}: a second, and the grace", asked.elapsed());
        assert!(keen.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
    }

    /// At once, in the middle of its session; and its token opens none again. Others go on.
    #[tokio::test]
    async fn a_subject_that_is_revoked_is_cut_off() {
        let served = served(ServeOptions::default()).await;
        let (mut ann, mut bob) = (Client::connect(&served).await, Client::connect(&served).await);
        assert_eq!(short(&ann.ask(&authenticate("ann")).await), "authenticated");
        assert_eq!(short(&bob.ask(&authenticate("bob")).await), "authenticated");
        let revoke = |method: &'static str, token: &'static str, body: &'static str| {
            post(served.address, method, "/v1/sessions/revoke", token, body)
        };
        let subject = r#"{"subject":"ann"}"#;
        assert_eq!(revoke("POST", "Bearer a guess", subject).await.0, 401);
        assert_eq!(revoke("GET", "Bearer the admin token", subject).await.0, 405);
        for (token, status) in [("Bearer ann", 401), ("Bearer the admin token", 200)] {
            assert_eq!(get(served.address, "GET /metrics", &[("authorization", token)]).await.0, status);
        }
        assert_eq!(revoke("POST", "Bearer the admin token", "{}").await.0, 400);
        assert!(ann.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
        let (status, body) = revoke("POST", "Bearer the admin token", subject).await;
        assert_eq!((status, &*body), (200, r#"{"sessions":1,"subject":"ann"}"#));
        assert_eq!(ann.closed().await, (4501, "the token has been revoked".to_owned()));
        assert!(bob.ask(r#"{"op":"ping"}"#).await.contains("heartbeat"));
        let mut again = Client::connect(&served).await;
        assert!(again.ask(&authenticate("ann")).await.contains("invalid_token"));
    }

    #[tokio::test]
    async fn a_subject_has_a_number_of_sessions() {
        let options = ServeOptions { connections_per_subject_max: 2, ..ServeOptions::default() };
        let served = served(options).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut client = Client::connect(&served).await;
            assert_eq!(short(&client.ask(&authenticate("ann")).await), "authenticated");
            // The same subject again is the same session.
            assert_eq!(short(&client.ask(&authenticate("ann")).await), "authenticated");
            held.push(client);
        }
        let mut third = Client::connect(&served).await;
        third.send(authenticate("ann")).await;
        assert_eq!(third.closed().await, (4502, "too many sessions of this subject".to_owned()));
        let mut bob = Client::connect(&served).await;
        assert_eq!(short(&bob.ask(&authenticate("bob")).await), "authenticated");
        drop(held);
        let again = async {
            loop {
                let mut client = Client::connect(&served).await;
                if short(&client.ask(&authenticate("ann")).await) == "authenticated" {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("a session that ends gives its place back");
    }

    /// A session that brings another's token is the other's from then on: it is not cut off with the first, and
    /// those of the first are, all of them.
    #[test]
    fn a_session_is_of_one_subject_at_a_time() {
        let (subjects, [ann, bob]) = (Subjects::default(), ["ann", "bob"].map(Arc::<str>::from));
        let [one, two, three, four]: [Arc<Signal>; 4] = Default::default();
        assert!([&one, &two, &three, &one].iter().all(|session| subjects.add(&ann, session, 3)));
        assert!(!subjects.add(&ann, &four, 3), "three are as many as there may be");
        subjects.remove(&ann, &one);
        assert!(subjects.add(&bob, &one, 3) && subjects.add(&ann, &four, 3));
        drop(two);
        let five = Arc::new(Signal::default());
        assert!(subjects.add(&ann, &five, 3), "one that ended takes no place");
        assert_eq!((subjects.cut("ann"), subjects.cut("ann")), (3, 0));
        assert_eq!([&one, &three, &four, &five].map(|it| it.is_cut()), [false, true, true, true]);
        assert_eq!(subjects.cut("bob"), 1);
    }

    /// What a client asked for stays what it asks for when a new token shows it more.
    #[tokio::test]
    async fn a_new_token_widens_no_question() {
        const TWO: &str = r#"image rows=[[1,"ann",5],[2,"bob",6]]"#;
        for (asked, before, after) in [
            (r#""where":{"n":{"_lt":6}}"#, r#"image rows=[[1,"ann",5]]"#, r#"image rows=[] upsert=[[4,"bob",5]]"#),
            (r#""columns":["n"]"#, "image rows=[[1,5]]", "image rows=[] upsert=[[2,6],[3,null],[4,5]]"),
            (r#""limit":2"#, r#"image rows=[[1,"ann",5]]"#, TWO),
            (r#""order":[{"column":"id"}],"limit":2"#, r#"image rows=[[1,"ann",5]]"#, TWO),
        ] {
            let served = served(ServeOptions::default()).await;
            model::publish(&served.hub, 2, &[], &[(4, Some("bob"), Some(5))]);
            let mut client = Client::connect(&served).await;
            assert_eq!(short(&client.ask(&authenticate("ann")).await), "authenticated");
            let subscribe = format!(r#"{{"op":"subscribe","id":"a","projection":"keyed",{asked}}}"#);
            assert_eq!(short(&client.ask(&subscribe).await), before, "{asked}");
            assert_eq!(short(&client.ask(&authenticate("admin")).await), "authenticated");
            let begin =
                if asked.contains("limit") { r#"image reset="claims" rows=[]"# } else { "image resumed=true rows=[]" };
            assert_eq!(short(&client.next().await), begin, "{asked}");
            assert_eq!(short(&client.next().await), after, "{asked}");
        }
    }

    /// A server that takes no tokens has no administrators, whatever is shown to it, and looks for tokens nowhere.
    #[tokio::test]
    async fn without_tokens_nobody_is_anybody() {
        let served = Served::start(model::hub(1 << 20), ServeOptions::default()).await;
        for bearer in ["", "Bearer ", "Bearer the admin token"] {
            let revoke = post(served.address, "POST", "/v1/sessions/revoke", bearer, r#"{"subject":"ann"}"#);
            assert_eq!(revoke.await.0, 401, "{bearer}");
        }
        let cookies = [("cookie", "xyzzy=ann; =ann; token=ann")];
        assert_eq!(get(served.address, "GET /v1/projections", &cookies).await.0, 200);
    }
}
