//! Where a request has its token.
//!
//! ```text
//! Authorization: Bearer TOKEN                              programs, and pages by fetch
//! Sec-WebSocket-Protocol: deltafront, bearer.TOKEN         pages: new WebSocket(url, [...])
//! Cookie: NAME=TOKEN                                       pages, where a cookie is configured
//! {"op":"authenticate","token":"TOKEN"}                    a message of a session; a later one replaces it
//! ```
//!
//! Never in the URL, which ends in logs, histories and `Referer`. A request has one token: when two
//! places name different ones, whoever put them there meant different things, and guessing could show a
//! row to the wrong one. A place that is used wrongly is an error too, and not a request by nobody.
//!
//! **A cookie** is sent by the browser whoever's page asks (CSRF; for WebSockets, where no CORS stands in
//! the way, cross-site WebSocket hijacking). So it counts only for a page that the browser has named and
//! the gate let pass, or that it says is our own. Browsers name the page of every WebSocket; of a GET by a
//! page of our own they say `Sec-Fetch-Site: same-origin`. `SameSite` and a `__Host-` name are for the one
//! who sets the cookie to add.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL};

use super::gate::Caller;
use crate::protocol::Refusal;

/// The subprotocol of a session, which is answered when it was offered. One with a token in it never
/// is: it would be in the answer's headers, and in the logs of whoever sees these.
pub const SUBPROTOCOL: &str = "deltafront";

/// How a subprotocol with a token begins. What follows is the token as it is, since a JWT has only
/// characters that a subprotocol may have, or in base64url once more.
const BEARER_PREFIX: &str = "bearer.";

/// A token, and where it was.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As it was sent; nothing of it has been checked.
    pub token: String,
    /// Where it was.
    pub place: Place,
}

/// Where a token can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The `Authorization` header.
    Authorization,
    /// `Sec-WebSocket-Protocol`
    Subprotocol,
    /// The cookie that is configured.
    Cookie,
}

/// Does not show the token.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({:?})", self.place)
    }
}

/// The token of a request; `None` when it has none. `cookie` is the name of the one to look for.
///
/// # Errors
/// `bad_credentials` when a place is used wrongly, `conflicting_tokens` when two places differ, and
/// `cookie_without_origin`.
pub fn find(
    headers: &HeaderMap,
    query: Option<&str>,
    caller: Caller,
    cookie: Option<&str>,
) -> Result<Option<Credential>, Refusal> {
    check_query(query)?;
    let mut found = Vec::new();
    for value in headers.get_all(AUTHORIZATION) {
        let wrong = || bad("`Authorization` is not `Bearer` and a token");
        let (scheme, token) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or_else(wrong)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(char::is_whitespace) {
            return Err(wrong());
        }
        found.push(Credential { token: token.to_owned(), place: Place::Authorization });
    }
    for offered in subprotocols(headers) {
        if let Some(packed) = offered.strip_prefix(BEARER_PREFIX) {
            let token = unpack(packed).ok_or_else(|| bad("after `bearer.` the subprotocol has no token"))?;
            found.push(Credential { token, place: Place::Subprotocol });
        }
    }
    if found.iter().any(|credential| credential.place == Place::Subprotocol) && chosen_subprotocol(headers).is_none() {
        return Err(bad(
            "offer the subprotocol `deltafront` beside the one with the token: it is the one that is answered",
        ));
    }
    if let Some(name) = cookie {
        for token in cookies(headers, name) {
            if !is_from_our_page(headers, caller) {
                let message = "a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`";
                return Err(Refusal::new("cookie_without_origin", message));
            }
            found.push(Credential { token, place: Place::Cookie });
        }
    }
    let mut found = found.into_iter();
    let first = found.next();
    match found.find(|other| first.as_ref().is_some_and(|first| first.token != other.token)) {
        Some(other) => Err(conflict(first.map_or(other.place, |first| first.place), other.place)),
        None => Ok(first),
    }
}

/// Refuses a URL that has a token.
///
/// # Errors
/// `bad_credentials`, which says where it belongs.
pub fn check_query(query: Option<&str>) -> Result<(), Refusal> {
    let is_token = |pair: &str| matches!(pair.split('=').next(), Some("token" | "access_token" | "jwt"));
    if query.is_some_and(|query| query.split('&').any(is_token)) {
        return Err(bad(
            "a token does not belong in the URL, which ends in logs; send it as `Authorization: Bearer …`",
        ));
    }
    Ok(())
}

/// The subprotocol to answer with, if it was offered.
#[must_use]
pub fn chosen_subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    subprotocols(headers).iter().any(|offered| offered == SUBPROTOCOL).then_some(SUBPROTOCOL)
}

fn bad(message: &'static str) -> Refusal {
    Refusal::new("bad_credentials", message)
}

fn conflict(one: Place, other: Place) -> Refusal {
    let name = |place| match place {
        Place::Authorization => "`Authorization`",
        Place::Subprotocol => "the subprotocol",
        Place::Cookie => "the cookie",
    };
    let message = match one == other {
        true => format!("{} has two different tokens; send one", name(one)),
        false => format!("{} and {} have different tokens; send one", name(one), name(other)),
    };
    Refusal::new("conflicting_tokens", message)
}

/// What a header says, in all its lines. A byte that is no text does not hide the rest: a token beside it
/// would be overlooked, and its owner taken for nobody.
fn lines(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = String> {
    headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn subprotocols(headers: &HeaderMap) -> Vec<String> {
    let split = |line: String| line.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
    lines(headers, SEC_WEBSOCKET_PROTOCOL).flat_map(split).collect()
}

/// A JWT has points, and base64url has none.
fn unpack(packed: &str) -> Option<String> {
    if packed.is_empty() || packed.contains('.') {
        return Some(packed.to_owned()).filter(|token| !token.is_empty());
    }
    String::from_utf8(URL_SAFE_NO_PAD.decode(packed).ok()?).ok()
}

/// Values of a cookie (RFC 6265, 5.4). There may be several: a site below ours can set one of the same
/// name. An empty one is what signing out leaves.
fn cookies(headers: &HeaderMap, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines(headers, COOKIE) {
        let named = line.split(';').filter_map(|pair| pair.trim().split_once('=')).filter(|(other, _)| *other == name);
        found.extend(named.map(|(_, value)| value.trim_matches('"').to_owned()).filter(|value| !value.is_empty()));
    }
    found
}

/// Whether the browser says that the page may use its cookies. `none` is an address that a person
/// has typed.
fn is_from_our_page(headers: &HeaderMap, caller: Caller) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    caller == Caller::Page || matches!(site, Some(b"same-origin" | b"none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::{Expect, expect};
    use hyper::header::HeaderValue;

    /// What is found in a request: lines of `name: value`, one of them may be `GET ?query`.
    fn told(caller: Caller, cookie: Option<&str>, request: &[&str]) -> String {
        let (mut headers, mut query) = (HeaderMap::new(), None);
        for line in request {
            match line.split_once(": ") {
                Some((name, value)) => drop(headers.append(
                    name.parse::<HeaderName>().expect("a name"),
                    HeaderValue::from_str(value).expect("a value"),
                )),
                None => query = line.strip_prefix("GET ?"),
            }
        }
        match find(&headers, query, caller, cookie) {
            Ok(None) => "nobody".to_owned(),
            Ok(Some(Credential { token, place })) => format!("{token} in {place:?}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    fn check(caller: Caller, cookie: Option<&str>, requests: &[&[&str]], expected: Expect) {
        let told: String = requests
            .iter()
            .map(|request| format!("{}\n    {}\n", request.join(" | "), told(caller, cookie, request)))
            .collect();
        expected.assert_eq(&told);
    }

    #[test]
    fn programs_send_a_header() {
        check(
            Caller::Unnamed,
            None,
            &[
                &[],
                &["authorization: Bearer a.b.c"],
                &["authorization: bearer  a.b.c "],
                &["authorization: Basic dXNlcjpwYXNz"],
                &["authorization: Bearer"],
                &["authorization: Bearer a b"],
                &["authorization: a.b.c"],
                &["authorization: Bearer a.b.c", "authorization: Bearer a.b.c"],
                &["authorization: Bearer a.b.c", "authorization: Bearer x.y.z"],
                &["authorization: Bearer a.b.c", "cookie: session=x.y.z"],
            ],
            expect![[r#"

                    nobody
                authorization: Bearer a.b.c
                    a.b.c in Authorization
                authorization: bearer  a.b.c 
                    a.b.c in Authorization
                authorization: Basic dXNlcjpwYXNz
                    bad_credentials: `Authorization` is not `Bearer` and a token
                authorization: Bearer
                    bad_credentials: `Authorization` is not `Bearer` and a token
                authorization: Bearer a b
                    bad_credentials: `Authorization` is not `Bearer` and a token
                authorization: a.b.c
                    bad_credentials: `Authorization` is not `Bearer` and a token
                authorization: Bearer a.b.c | authorization: Bearer a.b.c
                    a.b.c in Authorization
                authorization: Bearer a.b.c | authorization: Bearer x.y.z
                    conflicting_tokens: `Authorization` has two different tokens; send one
                authorization: Bearer a.b.c | cookie: session=x.y.z
                    a.b.c in Authorization
            "#]],
        );
    }

    #[test]
    fn pages_offer_a_subprotocol() {
        check(
            Caller::Page,
            None,
            &[
                &["sec-websocket-protocol: deltafront"],
                &["sec-websocket-protocol: deltafront, bearer.a.b.c"],
                &["sec-websocket-protocol: bearer.a.b.c,deltafront"],
                &["sec-websocket-protocol: deltafront, bearer.YS5iLmM"],
                &["sec-websocket-protocol: deltafront", "sec-websocket-protocol: bearer.a.b.c"],
                &["sec-websocket-protocol: bearer.a.b.c"],
                &["sec-websocket-protocol: deltafront, bearer."],
                &["sec-websocket-protocol: deltafront, bearer.YS5iLmM="],
                &["sec-websocket-protocol: deltafront, bearer.gICA"],
                &["sec-websocket-protocol: deltafront, bearer.a.b.c, bearer.YS5iLmM"],
                &["sec-websocket-protocol: deltafront, bearer.a.b.c, bearer.x.y.z"],
                &["sec-websocket-protocol: deltafront, bearer.a.b.c", "authorization: Bearer a.b.c"],
                &["sec-websocket-protocol: deltafront, bearer.x.y.z", "authorization: Bearer a.b.c"],
            ],
            expect![[r#"
                sec-websocket-protocol: deltafront
                    nobody
                sec-websocket-protocol: deltafront, bearer.a.b.c
                    a.b.c in Subprotocol
                sec-websocket-protocol: bearer.a.b.c,deltafront
                    a.b.c in Subprotocol
                sec-websocket-protocol: deltafront, bearer.YS5iLmM
                    a.b.c in Subprotocol
                sec-websocket-protocol: deltafront | sec-websocket-protocol: bearer.a.b.c
                    a.b.c in Subprotocol
                sec-websocket-protocol: bearer.a.b.c
                    bad_credentials: offer the subprotocol `deltafront` beside the one with the token: it is the one that is answered
                sec-websocket-protocol: deltafront, bearer.
                    bad_credentials: after `bearer.` the subprotocol has no token
                sec-websocket-protocol: deltafront, bearer.YS5iLmM=
                    bad_credentials: after `bearer.` the subprotocol has no token
                sec-websocket-protocol: deltafront, bearer.gICA
                    bad_credentials: after `bearer.` the subprotocol has no token
                sec-websocket-protocol: deltafront, bearer.a.b.c, bearer.YS5iLmM
                    a.b.c in Subprotocol
                sec-websocket-protocol: deltafront, bearer.a.b.c, bearer.x.y.z
                    conflicting_tokens: the subprotocol has two different tokens; send one
                sec-websocket-protocol: deltafront, bearer.a.b.c | authorization: Bearer a.b.c
                    a.b.c in Authorization
                sec-websocket-protocol: deltafront, bearer.x.y.z | authorization: Bearer a.b.c
                    conflicting_tokens: `Authorization` and the subprotocol have different tokens; send one
            "#]],
        );
    }

    /// A page of another site can make the browser send our cookie, and can't make it say that the page
    /// is ours.
    #[test]
    fn cookies_count_for_our_pages_alone() {
        let requests: [&[&str]; 12] = [
            &["cookie: session=a.b.c"],
            &["cookie: theme=ünkel; session=a.b.c; x"],
            &["cookie: theme=dark", "cookie: session=\"a.b.c\""],
            &["cookie: session="],
            &["cookie: Session=a.b.c; mysession=x.y.z"],
            &["cookie: session=a.b.c; session=a.b.c"],
            &["cookie: session=a.b.c; session=x.y.z"],
            &["cookie: session=a.b.c", "authorization: Bearer x.y.z"],
            &["cookie: session=a.b.c", "sec-fetch-site: same-origin"],
            &["cookie: session=a.b.c", "sec-fetch-site: none"],
            &["cookie: session=a.b.c", "sec-fetch-site: same-site"],
            &["cookie: session=a.b.c", "sec-fetch-site: cross-site"],
        ];
        check(
            Caller::Page,
            Some("session"),
            &requests,
            expect![[r#"
            cookie: session=a.b.c
                a.b.c in Cookie
            cookie: theme=ünkel; session=a.b.c; x
                a.b.c in Cookie
            cookie: theme=dark | cookie: session="a.b.c"
                a.b.c in Cookie
            cookie: session=
                nobody
            cookie: Session=a.b.c; mysession=x.y.z
                nobody
            cookie: session=a.b.c; session=a.b.c
                a.b.c in Cookie
            cookie: session=a.b.c; session=x.y.z
                conflicting_tokens: the cookie has two different tokens; send one
            cookie: session=a.b.c | authorization: Bearer x.y.z
                conflicting_tokens: `Authorization` and the cookie have different tokens; send one
            cookie: session=a.b.c | sec-fetch-site: same-origin
                a.b.c in Cookie
            cookie: session=a.b.c | sec-fetch-site: none
                a.b.c in Cookie
            cookie: session=a.b.c | sec-fetch-site: same-site
                a.b.c in Cookie
            cookie: session=a.b.c | sec-fetch-site: cross-site
                a.b.c in Cookie
        "#]],
        );
        check(
            Caller::Unnamed,
            Some("session"),
            &requests,
            expect![[r#"
            cookie: session=a.b.c
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: theme=ünkel; session=a.b.c; x
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: theme=dark | cookie: session="a.b.c"
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: session=
                nobody
            cookie: Session=a.b.c; mysession=x.y.z
                nobody
            cookie: session=a.b.c; session=a.b.c
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: session=a.b.c; session=x.y.z
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: session=a.b.c | authorization: Bearer x.y.z
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: session=a.b.c | sec-fetch-site: same-origin
                a.b.c in Cookie
            cookie: session=a.b.c | sec-fetch-site: none
                a.b.c in Cookie
            cookie: session=a.b.c | sec-fetch-site: same-site
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
            cookie: session=a.b.c | sec-fetch-site: cross-site
                cookie_without_origin: a cookie counts only with an `Origin` that may connect; send the token as `Authorization: Bearer …`
        "#]],
        );
    }

    #[test]
    fn a_token_does_not_belong_in_the_url() {
        check(
            Caller::Unnamed,
            None,
            &[&["GET ?token=a.b.c"], &["GET ?x=1&access_token=a"], &["GET ?jwt"], &["GET ?tokens=3&x=token"]],
            expect![[r#"
                GET ?token=a.b.c
                    bad_credentials: a token does not belong in the URL, which ends in logs; send it as `Authorization: Bearer …`
                GET ?x=1&access_token=a
                    bad_credentials: a token does not belong in the URL, which ends in logs; send it as `Authorization: Bearer …`
                GET ?jwt
                    bad_credentials: a token does not belong in the URL, which ends in logs; send it as `Authorization: Bearer …`
                GET ?tokens=3&x=token
                    nobody
            "#]],
        );
    }

    #[test]
    fn logs_show_no_token() {
        let found = Credential { token: "a.b.c".to_owned(), place: Place::Subprotocol };
        assert_eq!(format!("{found:?}"), "Credential(Subprotocol)");
    }

    /// What is answered has no token in it.
    #[test]
    fn the_plain_subprotocol_is_answered() {
        let chosen = |offered: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().expect("a header"));
            chosen_subprotocol(&headers)
        };
        assert_eq!(chosen("bearer.a.b.c, deltafront"), Some("deltafront"));
        assert_eq!(chosen("bearer.a.b.c"), None);
        assert_eq!(chosen("chat, Deltafront"), None);
        assert_eq!(chosen_subprotocol(&HeaderMap::new()), None);
    }
}
