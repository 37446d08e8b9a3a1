//! What a project says of its Kafka tables, and which of them are read together.

use std::collections::BTreeMap;

use crate::source::{Connector, Opened, Problem, TableOption, TableRequest};
use crate::topic::options::{OPTIONS, open_topics};

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

/// Takes the options that are of a cluster.
///
/// # Errors
/// With what is wrong with them.
pub fn cluster(project: &str, table: &mut TableRequest) -> Result<Cluster, Problem> {
    let brokers = table.options.remove("brokers").unwrap_or_default();
    // What is committed says of one source how far it is: those of a name of their own have a group of their own.
    let own = table.options.get("source").map_or_else(String::new, |source| format!("_{source}"));
    let group = table.options.remove("group").unwrap_or_else(|| format!("deltafront_{project}{own}"));
    let mut properties: BTreeMap<String, String> = table.options.extract_if(.., |name, _| name.contains('.')).collect();
    if let Some(own) = OWN.iter().find(|own| properties.contains_key(**own)) {
        return Err(Problem {
            table: Some(table.name.clone()),
            what: format!("`{own}` is not to be set: positions, and what is written exactly once, depend on it"),
            remedy: "leave it out; `brokers`, `start` and `on_data_loss` say where and what is read".to_owned(),
        });
    }
    properties.entry("group.id".to_owned()).or_insert(group);
    let cluster = Cluster { brokers, properties };
    cluster.check().map_err(|error| problem(&table.name, &error, &cluster.brokers))?;
    Ok(cluster)
}

/// A topic of a cluster is a source: it is down, and stops, by itself. Topics whose transactions are told together
/// are one.
fn open(project: &str, tables: Vec<TableRequest>) -> Opened {
    open_topics(tables, |table| cluster(project, table), KafkaTopic::reads_with, KafkaTopic::add, KafkaTopic::new)
}
