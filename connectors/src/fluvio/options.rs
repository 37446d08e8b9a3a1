//! What a project says of its Fluvio tables, and which of them are read together.

use fluvio::config::{TlsConfig, TlsPaths, TlsPolicy};

use crate::source::{Connector, Opened, Problem, TableOption, TableRequest};
use crate::topic::options::{OPTIONS, open_topics};

use super::client::Cluster;
use super::source::FluvioTopic;

/// What verified TLS needs: the client that we use always shows a certificate of its own.
const TLS_FILES: [&str; 4] = ["tls_domain", "tls_ca", "tls_cert", "tls_key"];

const TABLE_OPTIONS: [TableOption; OPTIONS.len() + 6] = {
    let mut all = [TableOption::optional("tls"); OPTIONS.len() + 6];
    all[0] = TableOption::required("endpoint", "add endpoint = '${FLUVIO}', such as fluvio-1:9003");
    let mut i = 0;
    while i < TLS_FILES.len() {
        all[i + 2] = TableOption::optional(TLS_FILES[i]);
        i += 1;
    }
    i = 0;
    while i < OPTIONS.len() {
        all[i + 6] = OPTIONS[i];
        i += 1;
    }
    all
};

/// `WITH (connector = 'fluvio')`.
pub const CONNECTOR: Connector = Connector {
    name: "fluvio",
    of_tables: "a Fluvio table",
    options: &TABLE_OPTIONS,
    reads_messages: true,
    open,
    open_sink: Some(super::sink::open),
    ..Connector::NONE
};

/// Takes the options that are of a cluster.
///
/// # Errors
/// With what is wrong with them.
pub fn cluster(table: &mut TableRequest) -> Result<Cluster, Problem> {
    let refuse =
        |what: String, remedy: &str| Err(Problem { table: Some(table.name.clone()), what, remedy: remedy.to_owned() });
    let endpoint = table.options.remove("endpoint").unwrap_or_default();
    let tls = table.options.remove("tls");
    let [domain, ca, cert, key] = TLS_FILES.map(|name| table.options.remove(name));
    let has_files = [&domain, &ca, &cert, &key].iter().any(|option| option.is_some());
    let tls = match (tls.as_deref(), has_files) {
        (None | Some("disabled"), false) => TlsPolicy::Disabled,
        (Some("anonymous"), false) => TlsPolicy::Anonymous,
        (None | Some("verified"), _) => match (domain, ca, cert, key) {
            (Some(domain), Some(ca_cert), Some(cert), Some(key)) => TlsPolicy::Verified(TlsConfig::Files(TlsPaths {
                domain,
                key: key.into(),
                cert: cert.into(),
                ca_cert: ca_cert.into(),
            })),
            _ => {
                return refuse(
                    "TLS with a verified server needs a name, an authority, and a certificate of our own".to_owned(),
                    "write all of tls_domain, tls_ca, tls_cert and tls_key",
                );
            }
        },
        (Some(mode @ ("disabled" | "anonymous")), true) => {
            return refuse(format!("tls = '{mode}' reads no files"), "write tls = 'verified', or leave the files out");
        }
        (Some(other), _) => {
            return refuse(
                format!("`{other}` is no tls"),
                "write tls = 'verified', 'disabled' or 'anonymous' (encrypted, and whoever answers is believed)",
            );
        }
    };
    Ok(Cluster { endpoint, tls })
}

/// A topic of a cluster is a source: it is down, and stops, by itself.
fn open(_: &str, tables: Vec<TableRequest>) -> Opened {
    open_topics(tables, cluster, FluvioTopic::reads_with, FluvioTopic::add, FluvioTopic::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(options: &[(&str, &str)]) -> Result<TlsPolicy, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut table = TableRequest { name: "t".to_owned(), options, columns: None, key: Vec::new() };
        cluster(&mut table).map(|cluster| cluster.tls).map_err(|problem| problem.what)
    }

    #[test]
    fn a_connection_is_verified_or_said_not_to_be() {
        let files = [("tls_domain", "d"), ("tls_ca", "ca"), ("tls_cert", "c"), ("tls_key", "k")];
        assert_eq!(tls(&[]), Ok(TlsPolicy::Disabled));
        assert!(matches!(tls(&files), Ok(TlsPolicy::Verified(_))));
        assert_eq!(tls(&[("tls", "anonymous")]), Ok(TlsPolicy::Anonymous));
        for wrong in [&files[..3], &[("tls", "verified")], &[("tls", "anonymous"), files[0]], &[("tls", "yes")]] {
            assert!(tls(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_listed_is_what_is_read() {
        let names: Vec<&str> = CONNECTOR.options.iter().map(|option| option.name).collect();
        assert_eq!(names[..6], ["endpoint", "tls", "tls_domain", "tls_ca", "tls_cert", "tls_key"]);
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1), "{names:?}");
    }
}
