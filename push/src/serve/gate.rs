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
        let is_known = ["localhost", "127.0.0.1", "[::1]"].contains(&name) || self.allowed_hosts.iter().any(|allowed| allowed == name);
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

    fn check(gate: &Gate, host: &'static str, origin: Option<&'static str>) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().expect("a header"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().expect("a header"));
        }
        gate.check(&headers)
    }

    #[test]
    fn foreign_pages_and_names_are_refused() {
        let gate = Gate::new(true, vec!["https://shop.example/".to_owned()], vec!["dev.box".to_owned()]);
        for (host, origin) in [
            ("localhost:8080", None),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("[::1]:8080", Some("http://[::1]:8080")),
            ("dev.box", None),
            ("localhost:8080", Some("https://shop.example")),
        ] {
            assert_eq!(check(&gate, host, origin), Ok(()), "{host} {origin:?}");
        }
        for (host, origin) in [
            ("evil.example", None),
            ("evil.example:8080", Some("http://evil.example:8080")),
            ("localhost:8080", Some("http://evil.example")),
            ("localhost:8080", Some("http://localhost:3000")),
            ("localhost:8080", Some("null")),
        ] {
            assert!(check(&gate, host, origin).is_err(), "{host} {origin:?}");
        }
        let public = Gate::new(false, Vec::new(), Vec::new());
        assert_eq!(check(&public, "api.example", Some("https://api.example")), Ok(()));
        assert!(check(&public, "api.example", Some("https://evil.example")).is_err());
    }
}
