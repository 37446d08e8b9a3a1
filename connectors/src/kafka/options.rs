//! What a project says of its Kafka tables, and which of them are read together.

use std::collections::BTreeMap;

use crate::source::{Connector, Opened, Problem, TableOption, TableRequest};
use crate::topic::options::{OPTIONS, open_topics, without_empty};

use super::client::{Cluster, OWN};
use super::error::problem;
use super::source::KafkaTopic;

const TABLE_OPTIONS: [TableOption; OPTIONS.len() + 5] = {
    let mut all = [TableOption::optional(""); OPTIONS.len() + 5];
    all[0] = TableOption::required("brokers", "add brokers = '${BROKERS}', such as broker-1:9092,broker-2:9092");
    all[1] = TableOption::optional("group");
    all[2] = TableOption::optional("delivery");
    all[3] = TableOption::optional("transactional_id");
    all[4] = TableOption::optional("transactions");
    let mut i = 0;
    while i < OPTIONS.len() {
        all[i + 5] = OPTIONS[i];
        i += 1;
    }
    all
};

/// `WITH (connector = 'kafka')`.
pub const CONNECTOR: Connector = Connector {
    name: "kafka",
    of_tables: "a Kafka table",
    options: &TABLE_OPTIONS,
    passes_dotted: true,
    reads_messages: true,
    open,
    open_sink: Some(super::sink::open),
};

/// Options of topics that are written, and that mean nothing for one that is read.
const OF_WRITING: [&str; 2] = ["delivery", "transactional_id"];

/// Takes the options that are of a cluster.
///
/// # Errors
/// With what is wrong with them.
pub fn cluster(project: &str, table: &mut TableRequest) -> Result<Cluster, Problem> {
    without_empty(table)?;
    let brokers = table.options.remove("brokers").unwrap_or_default();
    // What is committed says of one source how far it is: those of a name of their own have a group of their own.
    let own = table.options.get("source").map_or_else(String::new, |source| format!("_{source}"));
    let group = table.options.remove("group");
    let mut properties: BTreeMap<String, String> = table.options.extract_if(.., |name, _| name.contains('.')).collect();
    let refuse =
        |what: String, remedy: &str| Err(Problem { table: Some(table.name.clone()), what, remedy: remedy.to_owned() });
    if let Some(own) = OWN.iter().find(|own| properties.contains_key(**own)) {
        return refuse(
            format!("`{own}` is not to be set: positions, and what is written exactly once, depend on it"),
            "leave it out; `brokers`, `start` and `on_data_loss` say where and what is read",
        );
    }
    if group.is_some() && properties.contains_key("group.id") {
        return refuse("`group` and `group.id` are the same, and both are given".to_owned(), "keep `group`");
    }
    if let Some((what, remedy)) = passed_over(&properties) {
        return refuse(what, remedy);
    }
    let group = group.unwrap_or_else(|| format!("deltafront_{project}{own}"));
    properties.entry("group.id".to_owned()).or_insert(group);
    let cluster = Cluster { brokers, properties };
    cluster.check().map_err(|error| problem(&table.name, &error, &cluster.brokers))?;
    Ok(cluster)
}

/// What is said of users and TLS that librdkafka would pass over, with the remedy: it looks at `sasl.…` and `ssl.…` only
/// if `security.protocol` tells it to, and connects without them otherwise.
fn passed_over(properties: &BTreeMap<String, String>) -> Option<(String, &'static str)> {
    const PROTOCOLS: &str =
        "write 'security.protocol' = 'SASL_SSL' (a user and TLS), 'SSL' (TLS) or 'SASL_PLAINTEXT' (a user)";
    let given = properties.get("security.protocol");
    let protocol = given.map(|protocol| protocol.to_lowercase()).unwrap_or_default();
    for (prefix, part) in [("sasl.", "sasl"), ("ssl.", "ssl")] {
        let Some(name) = properties.keys().find(|name| name.starts_with(prefix)) else { continue };
        match given {
            None => {
                let what = format!("`{name}` is given, and without 'security.protocol' there is neither user nor TLS");
                return Some((what, PROTOCOLS));
            }
            Some(given) if !protocol.split('_').any(|of| of == part) => {
                return Some((
                    format!("`{name}` is given, and 'security.protocol' = '{given}' does not ask for it"),
                    PROTOCOLS,
                ));
            }
            Some(_) => {}
        }
    }
    let mechanism = properties.get("sasl.mechanism").or_else(|| properties.get("sasl.mechanisms"));
    match mechanism {
        None if protocol.starts_with("sasl") => Some((
            format!("'security.protocol' = '{}' asks for a user, and no 'sasl.mechanism' is named", given?),
            "add 'sasl.mechanism' = 'SCRAM-SHA-512', or PLAIN, SCRAM-SHA-256 or OAUTHBEARER, as the brokers have it",
        )),
        Some(mechanism) if mechanism.eq_ignore_ascii_case("gssapi") => Some((
            "there is no Kerberos (GSSAPI) in this program".to_owned(),
            "write 'sasl.mechanism' = 'SCRAM-SHA-512', or PLAIN, SCRAM-SHA-256 or OAUTHBEARER, if the brokers have it",
        )),
        _ => None,
    }
}

/// A topic of a cluster is a source: it is down, and stops, by itself. Topics whose transactions are told together
/// are one.
fn open(project: &str, tables: Vec<TableRequest>) -> Opened {
    let cluster = |table: &mut TableRequest| match OF_WRITING.iter().find(|name| table.options.contains_key(**name)) {
        None => cluster(project, table),
        Some(name) => Err(Problem {
            table: Some(table.name.clone()),
            what: format!("`{name}` is of topics that are written, and this one is read"),
            remedy: "leave it out".to_owned(),
        }),
    };
    open_topics(tables, cluster, KafkaTopic::reads_with, KafkaTopic::add, KafkaTopic::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(options: &[(&str, &str)]) -> TableRequest {
        let all = [&[("brokers", "b:9092"), ("topic", "t"), ("format", "json")], options].concat();
        let options = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        TableRequest { name: "t".to_owned(), options, columns: None, key: Vec::new() }
    }

    /// What is wrong with a table that is read.
    fn wrong(options: &[(&str, &str)]) -> String {
        let problems = open("p", vec![table(options)]).problems;
        problems.iter().map(|problem| format!("{}: {}; ", problem.what, problem.remedy)).collect()
    }

    /// `metadata.broker.list` sometimes beat `brokers`.
    #[test]
    fn what_is_ours_is_not_set_by_another_name() {
        for own in OWN {
            assert!(wrong(&[(own, "1")]).contains(&format!("`{own}` is not to be set")), "{own}");
        }
        assert!(OWN.contains(&"metadata.broker.list") && OWN.contains(&"auto.commit.enable"));
        assert_eq!(wrong(&[("group.id", "g")]), "");
        assert!(wrong(&[("group.id", "g"), ("group", "h")]).contains("`group` and `group.id` are the same"));
    }

    #[test]
    fn an_option_that_is_empty_is_told() {
        for name in ["topic", "brokers", "group", "source", "dead_letters", "start", "key_column"] {
            assert!(wrong(&[(name, "")]).contains(&format!("`{name}` is empty")), "{name}");
        }
        // That of a table that is written, too.
        let problem = cluster("p", &mut table(&[("brokers", "")])).err().expect("a problem");
        assert_eq!(problem.what, "`brokers` is empty");
    }

    /// They were taken, and nothing came of them.
    #[test]
    fn options_of_writing_are_refused_where_a_topic_is_read() {
        for (name, value) in [("delivery", "at_least_once"), ("transactional_id", "x")] {
            assert!(wrong(&[(name, value)]).contains(&format!("`{name}` is of topics that are written")), "{name}");
            assert!(cluster("p", &mut table(&[(name, value)])).is_ok(), "{name}");
        }
    }

    /// Without `security.protocol` a password is never asked for, and the connection is open to all.
    #[test]
    fn security_is_whole_or_refused() {
        let of = |protocol: &'static str, more: &[(&'static str, &'static str)]| {
            wrong(&[&[("security.protocol", protocol)], more].concat())
        };
        let user = [("sasl.mechanism", "PLAIN"), ("sasl.username", "u"), ("sasl.password", "p")];
        assert_eq!(of("SASL_SSL", &user), "");
        assert_eq!(of("sasl_plaintext", &[("sasl.mechanisms", "SCRAM-SHA-256")]), "");
        assert_eq!(of("SSL", &[("ssl.ca.location", "/no/such/file")]), "");
        assert!(
            wrong(&user).contains("`sasl.mechanism` is given, and without 'security.protocol'"),
            "{}",
            wrong(&user)
        );
        assert!(wrong(&[("ssl.ca.location", "/ca.pem")]).contains("`ssl.ca.location` is given"));
        assert!(of("SSL", &user).contains("`sasl.mechanism` is given, and 'security.protocol' = 'SSL'"));
        assert!(of("SASL_SSL", &[]).contains("no 'sasl.mechanism' is named"));
        assert!(of("SASL_SSL", &[("sasl.mechanism", "gssapi")]).contains("no Kerberos"));
    }

    /// Whether it is there is asked when it is read: `check --offline` may be run elsewhere.
    #[test]
    fn a_file_that_is_not_there_is_named() {
        let files = [("security.protocol", "SSL"), ("ssl.ca.location", "/no/such/file")];
        let cluster = cluster("p", &mut table(&files)).expect("a cluster");
        let error = cluster.consumer().err().expect("no file");
        let said = problem("t", &error, &cluster.brokers).what;
        assert_eq!(said, "'ssl.ca.location' names /no/such/file, which is not there");
    }
}
