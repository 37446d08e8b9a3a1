//! Who may connect: hosts, origins.
//!
//! A page of any site may open a WebSocket to this server from a visitor's browser; the browser
//! only adds who the page is. So a foreign `Origin` is refused, wherever the server listens.
//!
//! And a site's *name* may be made to point at this server (DNS rebinding): then its pages are of our
//! own origin as far as a browser can tell, and only the `Host` that they name betrays them. So a name
//! is answered only when it is a loopback one, which nobody can point elsewhere, or on the list. An
//! address can't be pointed anywhere: a page at `http://10.0.0.5:8080` has come from there. So a server
//! that listens beyond this machine answers to addresses; one that does not answers to loopback ones.

use std::fmt;
use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Gate {
    is_loopback: bool,
    allowed_origins: Vec<AllowedOrigin>,
    allowed_hosts: Vec<AllowedHost>,
}

/// Who asks, once the gate has let it pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A page whose origin may connect: the server's own, or one on the list.
    Page,
    /// No page, or one that its browser does not name: programs, and pages of the server's own origin
    /// that read by GET.
    Unnamed,
}

/// An entry of the lists that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEntry {
    /// The list: `allowed_hosts` or `allowed_origins`.
    pub list: &'static str,
    /// The entry as written.
    pub entry: String,
    /// What it should be.
    pub wanted: &'static str,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` in {} is {}", self.entry, self.list, self.wanted)
    }
}

impl std::error::Error for BadEntry {}

/// A name or address, and a port if it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedHost {
    /// In lower case. Of any name below this one when `is_wildcard`.
    name: String,
    is_wildcard: bool,
    /// `None` for any.
    port: Option<u16>,
}

/// `scheme://host[:port]`
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedOrigin {
    scheme: String,
    /// With the scheme's own port where none is written.
    host: AllowedHost,
}

impl Gate {
    /// Whether only this machine comes through, and by no other name: nobody has put a proxy in front.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_loopback && self.allowed_hosts.is_empty()
    }

    /// A gate for a listener.
    ///
    /// A host is a name or an address: `shop.example` at any port, `shop.example:8443` at this one,
    /// `*.shop.example` for every name below. An origin is written as browsers write it,
    /// `https://shop.example`; its port is the scheme's own when it has none.
    ///
    /// # Errors
    /// With the first entry that is neither.
    pub fn new(is_loopback: bool, origins: &[String], hosts: &[String]) -> Result<Gate, BadEntry> {
        let allowed_origins = origins.iter().map(|entry| AllowedOrigin::parse(entry)).collect::<Result<_, _>>()?;
        let bad = |entry: &String| BadEntry {
            list: "allowed_hosts",
            entry: entry.clone(),
            wanted: "no host; write a name such as shop.example, shop.example:8443 or *.shop.example",
        };
        let host = |entry: &String| AllowedHost::parse(entry).ok_or_else(|| bad(entry));
        let allowed_hosts = hosts.iter().map(host).collect::<Result<_, _>>()?;
        Ok(Gate { is_loopback, allowed_origins, allowed_hosts })
    }

    /// Lets a request pass, and tells who asks.
    ///
    /// # Errors
    /// With the reason why not.
    pub fn check(&self, headers: &HeaderMap) -> Result<Caller, String> {
        let written = one(headers, HOST)?.ok_or("the request has no Host")?.to_lowercase();
        let (name, port) = split_port(&written).ok_or_else(|| format!("{written} is no host"))?;
        if !self.is_served(name, port) {
            return Err(format!("host {name} is not served here; add it to allowed_hosts in deltafront.toml"));
        }
        let Some(origin) = one(headers, ORIGIN)? else { return Ok(Caller::Unnamed) };
        let origin = origin.to_lowercase();
        if self.may_connect(&origin, name, port) {
            return Ok(Caller::Page);
        }
        Err(match &*origin {
            "null" => "a page without an origin may not connect (a sandboxed frame, a file, a redirect)".to_owned(),
            _ => format!("origin {origin} may not connect; add it to allowed_origins in deltafront.toml"),
        })
    }

    fn is_served(&self, name: &str, port: Option<u16>) -> bool {
        let is_own = match address(name) {
            Some(address) => !self.is_loopback || address.to_canonical().is_loopback(),
            None => plain(name) == "localhost",
        };
        // Behind a proxy it is not known which of the two a name without a port means.
        let has_port = |wanted: u16| port.map_or(wanted == 80 || wanted == 443, |port| port == wanted);
        is_own || self.allowed_hosts.iter().any(|host| host.has_name(name) && host.port.is_none_or(has_port))
    }

    fn may_connect(&self, origin: &str, own_name: &str, own_port: Option<u16>) -> bool {
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        let Some((name, port)) = split_port(host) else { return false };
        let default = default_port(scheme);
        let port = port.or(default);
        let is_own = default.is_some() && plain(name) == plain(own_name) && port == own_port.or(default);
        is_own
            || self
                .allowed_origins
                .iter()
                .any(|allowed| allowed.scheme == scheme && allowed.host.port == port && allowed.host.has_name(name))
    }
}

impl AllowedHost {
    fn parse(entry: &str) -> Option<AllowedHost> {
        let entry = entry.to_lowercase();
        let (name, port) = split_port(&entry)?;
        let (name, is_wildcard) = match name.strip_prefix("*.") {
            // `*.com` would be half of the web.
            Some(name) if plain(name).contains('.') && address(name).is_none() => (name, true),
            Some(_) => return None,
            None => (name, false),
        };
        let name = plain(name);
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let is_name = !name.is_empty() && name.chars().all(is_word);
        (is_name || address(name).is_some()).then(|| AllowedHost { name: name.to_owned(), is_wildcard, port })
    }

    fn has_name(&self, name: &str) -> bool {
        let name = plain(name);
        match name.strip_suffix(&*self.name) {
            Some("") => !self.is_wildcard,
            Some(below) => self.is_wildcard && below.len() > 1 && below.ends_with('.'),
            None => false,
        }
    }
}

impl AllowedOrigin {
    fn parse(entry: &str) -> Result<AllowedOrigin, BadEntry> {
        let bad = |wanted| BadEntry { list: "allowed_origins", entry: entry.to_owned(), wanted };
        let no_origin = "no origin; write it as https://shop.example, with a port if it is not the scheme's own";
        if entry.eq_ignore_ascii_case("null") {
            return Err(bad("the origin of every sandboxed frame, also of foreign pages; leave it out"));
        }
        let (scheme, host) = entry.trim_end_matches('/').split_once("://").ok_or_else(|| bad(no_origin))?;
        let scheme = scheme.to_lowercase();
        let mut host = AllowedHost::parse(host).ok_or_else(|| bad(no_origin))?;
        if scheme.is_empty() {
            return Err(bad(no_origin));
        }
        host.port = host.port.or(default_port(&scheme));
        Ok(AllowedOrigin { scheme, host })
    }
}

/// The port that a browser leaves out. Other schemes, which apps have for their pages, have none.
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A header that may come once: of two, a proxy before us may have read the other one.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, String> {
    let mut values = headers.get_all(&name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| format!("the request's {name} can't be read")),
        (Some(_), Some(_)) => Err(format!("the request has more than one {name}")),
    }
}

/// Name and port; `None` when what should be the port is none.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => {
            let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            Some((name, Some(port.parse().ok().filter(|_| is_number)?)))
        }
        _ => Some((host, None)),
    }
}

/// The same name without the point that a full one may end with.
fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// An address as it stands in a URL. What browsers take for one besides (`127.1`) they write in full.
fn address(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[') {
        Some(name) => name.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use expect_test::{Expect, expect};

    fn check(gate: &Gate, asked: &[&str], expected: Expect) {
        expected.assert_eq(&told(gate, asked));
    }

    /// What a gate says to `HOST [ORIGIN]`, a line each.
    fn told(gate: &Gate, asked: &[&str]) -> String {
        let mut told = String::new();
        for line in asked {
            let (host, origin) = line.split_once(' ').map_or((*line, None), |(host, origin)| (host, Some(origin)));
            let mut headers = HeaderMap::new();
            if !host.is_empty() {
                headers.insert(HOST, host.parse().expect("a header"));
            }
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("a header"));
            }
            let answer =
                gate.check(&headers).map_or_else(|reason| format!("refused: {reason}"), |_| "served".to_owned());
            told += &format!("{line:45} {answer}\n");
        }
        told
    }

    fn gate(is_loopback: bool, origins: &[&str], hosts: &[&str]) -> Gate {
        try_gate(is_loopback, origins, hosts).expect("entries that are right")
    }

    fn try_gate(is_loopback: bool, origins: &[&str], hosts: &[&str]) -> Result<Gate, BadEntry> {
        let owned = |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
        Gate::new(is_loopback, &owned(origins), &owned(hosts))
    }

    /// A foreign name that was made to point here is refused, and so is an address that is not of this
    /// machine: nobody can have come by it.
    #[test]
    fn on_loopback_only_loopback_names_are_served() {
        check(
            &gate(true, &[], &[]),
            &[
                "localhost",
                "localhost:8080",
                "LocalHost:8080",
                "localhost.",
                "127.0.0.1:8080",
                "127.8.8.8",
                "[::1]",
                "[::1]:8080",
                "[::ffff:127.0.0.1]:8080",
                "10.0.0.1:8080",
                "0.0.0.0:8080",
                "[fe80::1]",
                "evil.example",
                "evil.example:8080",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "::1",
                "localhost:evil",
                "localhost:",
                "localhost:+80",
                "localhost:65536",
                "",
            ],
            expect![[r#"
                localhost                                     served
                localhost:8080                                served
                LocalHost:8080                                served
                localhost.                                    served
                127.0.0.1:8080                                served
                127.8.8.8                                     served
                [::1]                                         served
                [::1]:8080                                    served
                [::ffff:127.0.0.1]:8080                       served
                10.0.0.1:8080                                 refused: host 10.0.0.1 is not served here; add it to allowed_hosts in deltafront.toml
                0.0.0.0:8080                                  refused: host 0.0.0.0 is not served here; add it to allowed_hosts in deltafront.toml
                [fe80::1]                                     refused: host [fe80::1] is not served here; add it to allowed_hosts in deltafront.toml
                evil.example                                  refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
                evil.example:8080                             refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
                localhost.evil.example                        refused: host localhost.evil.example is not served here; add it to allowed_hosts in deltafront.toml
                127.0.0.1.evil.example                        refused: host 127.0.0.1.evil.example is not served here; add it to allowed_hosts in deltafront.toml
                ::1                                           refused: host : is not served here; add it to allowed_hosts in deltafront.toml
                localhost:evil                                refused: localhost:evil is no host
                localhost:                                    refused: localhost: is no host
                localhost:+80                                 refused: localhost:+80 is no host
                localhost:65536                               refused: localhost:65536 is no host
                                                              refused: the request has no Host
            "#]],
        );
    }

    /// Beyond this machine too: listening on every address was once taken for serving every name, and a
    /// page of any site could make its name point here and read all there is.
    #[test]
    fn a_public_listener_serves_addresses_and_no_foreign_name() {
        check(
            &gate(false, &[], &[]),
            &[
                "10.0.0.1:8080",
                "[2001:db8::1]:8080",
                "[2001:db8::1]",
                "127.0.0.1:8080",
                "localhost:8080",
                "api.example",
                "evil.example:8080",
                "10.0.0.1.evil.example",
                "0x7f.1",
                "[::1",
                "[evil.example]",
                "",
            ],
            expect![[r#"
                10.0.0.1:8080                                 served
                [2001:db8::1]:8080                            served
                [2001:db8::1]                                 served
                127.0.0.1:8080                                served
                localhost:8080                                served
                api.example                                   refused: host api.example is not served here; add it to allowed_hosts in deltafront.toml
                evil.example:8080                             refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
                10.0.0.1.evil.example                         refused: host 10.0.0.1.evil.example is not served here; add it to allowed_hosts in deltafront.toml
                0x7f.1                                        refused: host 0x7f.1 is not served here; add it to allowed_hosts in deltafront.toml
                [::1                                          refused: host [: is not served here; add it to allowed_hosts in deltafront.toml
                [evil.example]                                refused: host [evil.example] is not served here; add it to allowed_hosts in deltafront.toml
                                                              refused: the request has no Host
            "#]],
        );
    }

    /// With a port: there alone. A proxy that ends TLS names the host without a port, which is one of
    /// the two that browsers leave out. A wildcard is for the names below, at any depth, and not for
    /// the name itself.
    #[test]
    fn allowed_hosts_are_served_wherever_the_server_listens() {
        let asked = [
            "shop.example",
            "SHOP.example:443",
            "shop.example.:8080",
            "dev.box:8080",
            "dev.box:8081",
            "dev.box",
            "web.box",
            "web.box:443",
            "web.box:80",
            "eu.wild.example",
            "a.eu.wild.example:8080",
            "wild.example",
            ".wild.example",
            "evilwild.example",
            "eu.wild.example.evil.example",
            "eu.port.example:9000",
            "eu.port.example",
            "localhost:8080",
            "evil.example",
            "x.shop.example",
            "",
        ];
        let answers = |is_loopback| {
            let hosts = ["Shop.Example", "dev.box:8080", "web.box:443", "*.wild.example", "*.port.example:9000"];
            told(&gate(is_loopback, &[], &hosts), &asked)
        };
        expect![[r#"
            shop.example                                  served
            SHOP.example:443                              served
            shop.example.:8080                            served
            dev.box:8080                                  served
            dev.box:8081                                  refused: host dev.box is not served here; add it to allowed_hosts in deltafront.toml
            dev.box                                       refused: host dev.box is not served here; add it to allowed_hosts in deltafront.toml
            web.box                                       served
            web.box:443                                   served
            web.box:80                                    refused: host web.box is not served here; add it to allowed_hosts in deltafront.toml
            eu.wild.example                               served
            a.eu.wild.example:8080                        served
            wild.example                                  refused: host wild.example is not served here; add it to allowed_hosts in deltafront.toml
            .wild.example                                 refused: host .wild.example is not served here; add it to allowed_hosts in deltafront.toml
            evilwild.example                              refused: host evilwild.example is not served here; add it to allowed_hosts in deltafront.toml
            eu.wild.example.evil.example                  refused: host eu.wild.example.evil.example is not served here; add it to allowed_hosts in deltafront.toml
            eu.port.example:9000                          served
            eu.port.example                               refused: host eu.port.example is not served here; add it to allowed_hosts in deltafront.toml
            localhost:8080                                served
            evil.example                                  refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
            x.shop.example                                refused: host x.shop.example is not served here; add it to allowed_hosts in deltafront.toml
                                                          refused: the request has no Host
        "#]].assert_eq(&answers(true));
        assert_eq!(answers(false), answers(true));
        check(
            &gate(true, &[], &["10.0.0.5", "[fe80::1]:8080"]),
            &["10.0.0.5:80", "[fe80::1]:8080", "10.0.0.6"],
            expect![[r#"
                10.0.0.5:80                                   served
                [fe80::1]:8080                                served
                10.0.0.6                                      refused: host 10.0.0.6 is not served here; add it to allowed_hosts in deltafront.toml
            "#]],
        );
    }

    #[test]
    fn entries_that_mean_nothing_are_refused() {
        let mut told = String::new();
        for host in [
            "",
            "*",
            "*.example",
            "*.10.0.0.1",
            "https://shop.example",
            "shop.example/",
            "a b",
            "shop:",
            "*.*.shop.example",
        ] {
            told += &format!("{}\n", try_gate(true, &[], &[host]).expect_err("a mistake"));
        }
        for origin in
            ["", "shop.example", "null", "https://", "://shop.example", "https://shop.example/page", "*", "https://*"]
        {
            told += &format!("{}\n", try_gate(true, &[origin], &[]).expect_err("a mistake"));
        }
        expect![[r#"
            `` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `*` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `*.example` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `*.10.0.0.1` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `https://shop.example` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `shop.example/` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `a b` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `shop:` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `*.*.shop.example` in allowed_hosts is no host; write a name such as shop.example, shop.example:8443 or *.shop.example
            `` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
            `shop.example` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
            `null` in allowed_origins is the origin of every sandboxed frame, also of foreign pages; leave it out
            `https://` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
            `://shop.example` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
            `https://shop.example/page` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
            `*` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
            `https://*` in allowed_origins is no origin; write it as https://shop.example, with a port if it is not the scheme's own
        "#]].assert_eq(&told);
    }

    /// A page of this very server may connect, and pages of the origins that are allowed. The port
    /// is part of an origin: another server of this machine is foreign.
    #[test]
    fn foreign_pages_are_refused() {
        check(
            &gate(
                true,
                &[
                    "https://Shop.example/",
                    "http://dev.box:3000",
                    "https://*.wild.example",
                    "app://localhost",
                    "https://[fe80::1]:8443",
                ],
                &["own.example"],
            ),
            &[
                "localhost:8080 http://localhost:8080",
                "localhost:8080 https://localhost:8080",
                "[::1]:8080 http://[::1]:8080",
                "localhost:8080 https://shop.example",
                "localhost:8080 HTTPS://SHOP.EXAMPLE",
                "localhost:8080 http://dev.box:3000",
                "localhost:8080 http://shop.example",
                "localhost:8080 http://localhost:3000",
                "localhost:8080 ftp://localhost:8080",
                "localhost:8080 http://evil.example",
                "localhost:8080 https://shop.example:443",
                "localhost:8080 https://shop.example:444",
                "localhost:8080 https://eu.wild.example",
                "localhost:8080 https://wild.example",
                "localhost:8080 https://eu.wild.example:8443",
                "localhost:8080 http://eu.wild.example",
                "localhost:8080 app://localhost",
                "localhost:8080 app://localhost:1",
                "localhost:8080 https://[fe80::1]:8443",
                "own.example https://own.example",
                "own.example:443 https://own.example",
                "own.example https://own.example:443",
                "own.example:8080 https://own.example",
                "own.example ftp://own.example",
                "own.example own.example",
                "own.example https://own.example.evil.example",
                "own.example https://own.example:x",
                "localhost:8080 http://127.0.0.1:8080",
                "localhost:8080 null",
                "localhost:8080 Null",
                "localhost:8080 ",
                "evil.example:8080 http://evil.example:8080",
            ],
            expect![[r#"
                localhost:8080 http://localhost:8080          served
                localhost:8080 https://localhost:8080         served
                [::1]:8080 http://[::1]:8080                  served
                localhost:8080 https://shop.example           served
                localhost:8080 HTTPS://SHOP.EXAMPLE           served
                localhost:8080 http://dev.box:3000            served
                localhost:8080 http://shop.example            refused: origin http://shop.example may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 http://localhost:3000          refused: origin http://localhost:3000 may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 ftp://localhost:8080           refused: origin ftp://localhost:8080 may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 http://evil.example            refused: origin http://evil.example may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 https://shop.example:443       served
                localhost:8080 https://shop.example:444       refused: origin https://shop.example:444 may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 https://eu.wild.example        served
                localhost:8080 https://wild.example           refused: origin https://wild.example may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 https://eu.wild.example:8443   refused: origin https://eu.wild.example:8443 may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 http://eu.wild.example         refused: origin http://eu.wild.example may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 app://localhost                served
                localhost:8080 app://localhost:1              refused: origin app://localhost:1 may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 https://[fe80::1]:8443         served
                own.example https://own.example               served
                own.example:443 https://own.example           served
                own.example https://own.example:443           served
                own.example:8080 https://own.example          refused: origin https://own.example may not connect; add it to allowed_origins in deltafront.toml
                own.example ftp://own.example                 refused: origin ftp://own.example may not connect; add it to allowed_origins in deltafront.toml
                own.example own.example                       refused: origin own.example may not connect; add it to allowed_origins in deltafront.toml
                own.example https://own.example.evil.example  refused: origin https://own.example.evil.example may not connect; add it to allowed_origins in deltafront.toml
                own.example https://own.example:x             refused: origin https://own.example:x may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 http://127.0.0.1:8080          refused: origin http://127.0.0.1:8080 may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080 null                           refused: a page without an origin may not connect (a sandboxed frame, a file, a redirect)
                localhost:8080 Null                           refused: a page without an origin may not connect (a sandboxed frame, a file, a redirect)
                localhost:8080                                refused: origin  may not connect; add it to allowed_origins in deltafront.toml
                evil.example:8080 http://evil.example:8080    refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
            "#]],
        );
    }

    #[test]
    fn a_public_listener_refuses_foreign_pages_too() {
        check(
            &gate(false, &[], &["api.example"]),
            &[
                "api.example https://api.example",
                "api.example https://evil.example",
                "10.0.0.5:8080 http://10.0.0.5:8080",
                "10.0.0.5:8080 http://10.0.0.5",
                "10.0.0.5:8080 null",
            ],
            expect![[r#"
                api.example https://api.example               served
                api.example https://evil.example              refused: origin https://evil.example may not connect; add it to allowed_origins in deltafront.toml
                10.0.0.5:8080 http://10.0.0.5:8080            served
                10.0.0.5:8080 http://10.0.0.5                 refused: origin http://10.0.0.5 may not connect; add it to allowed_origins in deltafront.toml
                10.0.0.5:8080 null                            refused: a page without an origin may not connect (a sandboxed frame, a file, a redirect)
            "#]],
        );
    }

    /// Whose cookies count is for others to say; they need to know whether a page was named.
    #[test]
    fn who_asks_is_told() {
        let gate = gate(true, &[], &[]);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "localhost".parse().expect("a header"));
        assert_eq!(gate.check(&headers), Ok(Caller::Unnamed));
        headers.insert(ORIGIN, "http://localhost".parse().expect("a header"));
        assert_eq!(gate.check(&headers), Ok(Caller::Page));
    }

    /// Of two hosts or origins, somebody before us may have checked the other.
    #[test]
    fn a_header_that_comes_twice_is_refused() {
        let gate = gate(true, &[], &[]);
        for (name, value, expected) in [
            (HOST, &b"localhost"[..], "the request has more than one host"),
            (ORIGIN, b"http://localhost", "the request has more than one origin"),
            (ORIGIN, b"\xff", "the request's origin can't be read"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "localhost".parse().expect("a header"));
            if value.is_ascii() {
                headers.insert(ORIGIN, "http://localhost".parse().expect("a header"));
            }
            headers.append(name, hyper::header::HeaderValue::from_bytes(value).expect("a header"));
            assert_eq!(gate.check(&headers), Err(expected.to_owned()));
        }
    }
}
