//! Who may connect: hosts, origins.
//!
//! A page of any site may open a WebSocket to this server from a visitor's browser; the browser
//! only adds who the page is. So a foreign `Origin` is refused. And a foreign name may be made to
//! point at a loopback address (DNS rebinding), so a loopback listener answers to loopback names
//! only.

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Gate {
    is_loopback: bool,
    allowed_origins: Vec<String>,
    allowed_hosts: Vec<String>,
}

impl Gate {
    /// A gate for a listener; origins are written as `https://shop.example`.
    #[must_use]
    pub fn new(is_loopback: bool, allowed_origins: Vec<String>, allowed_hosts: Vec<String>) -> Gate {
        let trim = |origin: String| origin.trim_end_matches('/').to_lowercase();
        let allowed_hosts = allowed_hosts.into_iter().map(|host| host.to_lowercase()).collect();
        Gate { is_loopback, allowed_origins: allowed_origins.into_iter().map(trim).collect(), allowed_hosts }
    }

    /// Why a request is refused, if it is.
    ///
    /// # Errors
    /// With the reason.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_lowercase();
        let name = host_name(&host);
        let is_known = ["localhost", "127.0.0.1", "[::1]"].contains(&name)
            || self.allowed_hosts.iter().any(|allowed| allowed == name);
        if (self.is_loopback || !self.allowed_hosts.is_empty()) && !is_known {
            return Err(format!("host {name} is not served here; add it to allowed_hosts in deltafront.toml"));
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or("that can't be read").to_lowercase();
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if own == Some(&*host) || self.allowed_origins.contains(&origin) {
            return Ok(());
        }
        Err(format!("origin {origin} may not connect; add it to allowed_origins in deltafront.toml"))
    }
}

/// Without the port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
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
                gate.check(&headers).map_or_else(|reason| format!("refused: {reason}"), |()| "served".to_owned());
            told += &format!("{line:45} {answer}\n");
        }
        told
    }

    fn gate(is_loopback: bool, origins: &[&str], hosts: &[&str]) -> Gate {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Gate::new(is_loopback, owned(origins), owned(hosts))
    }

    #[test]
    fn on_loopback_only_loopback_names_are_served() {
        check(
            &gate(true, &[], &[]),
            &[
                "localhost",
                "localhost:8080",
                "LocalHost:8080",
                "127.0.0.1:8080",
                "[::1]",
                "[::1]:8080",
                "evil.example",
                "evil.example:8080",
                "localhost.evil.example",
                "localhost:evil",
                "",
            ],
            expect![[r#"
                localhost                                     served
                localhost:8080                                served
                LocalHost:8080                                served
                127.0.0.1:8080                                served
                [::1]                                         served
                [::1]:8080                                    served
                evil.example                                  refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
                evil.example:8080                             refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
                localhost.evil.example                        refused: host localhost.evil.example is not served here; add it to allowed_hosts in deltafront.toml
                localhost:evil                                refused: host localhost:evil is not served here; add it to allowed_hosts in deltafront.toml
                                                              refused: host  is not served here; add it to allowed_hosts in deltafront.toml
            "#]],
        );
    }

    /// `allowed_hosts` adds names to a loopback listener, and makes a public one answer to these
    /// names alone: whoever named hosts meant it, wherever the server listens.
    #[test]
    fn allowed_hosts_are_served_and_no_others() {
        let answers = |is_loopback| {
            let gate = gate(is_loopback, &[], &["Shop.Example", "dev.box"]);
            told(
                &gate,
                &[
                    "shop.example",
                    "SHOP.example:443",
                    "dev.box:8080",
                    "localhost:8080",
                    "evil.example",
                    "x.shop.example",
                    "",
                ],
            )
        };
        expect![[r#"
            shop.example                                  served
            SHOP.example:443                              served
            dev.box:8080                                  served
            localhost:8080                                served
            evil.example                                  refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
            x.shop.example                                refused: host x.shop.example is not served here; add it to allowed_hosts in deltafront.toml
                                                          refused: host  is not served here; add it to allowed_hosts in deltafront.toml
        "#]]
        .assert_eq(&answers(true));
        assert_eq!(answers(false), answers(true));
    }

    #[test]
    fn a_public_listener_without_allowed_hosts_has_any_name() {
        check(
            &gate(false, &[], &[]),
            &["api.example", "10.0.0.1:8080", ""],
            expect![[r#"
                api.example                                   served
                10.0.0.1:8080                                 served
                                                              served
            "#]],
        );
    }

    /// A page of this very server may connect, and pages of the origins that are allowed. The port
    /// is part of an origin: another server of this machine is foreign.
    #[test]
    fn foreign_pages_are_refused() {
        check(
            &gate(true, &["https://Shop.example/", "http://dev.box:3000"], &[]),
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
                "localhost:8080 null",
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
                localhost:8080 null                           refused: origin null may not connect; add it to allowed_origins in deltafront.toml
                localhost:8080                                refused: origin  may not connect; add it to allowed_origins in deltafront.toml
                evil.example:8080 http://evil.example:8080    refused: host evil.example is not served here; add it to allowed_hosts in deltafront.toml
            "#]],
        );
    }

    #[test]
    fn a_public_listener_refuses_foreign_pages_too() {
        check(
            &gate(false, &[], &[]),
            &["api.example https://api.example", "api.example https://evil.example"],
            expect![[r#"
                api.example https://api.example               served
                api.example https://evil.example              refused: origin https://evil.example may not connect; add it to allowed_origins in deltafront.toml
            "#]],
        );
    }
}
