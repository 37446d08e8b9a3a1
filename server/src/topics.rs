//! Topics of a project that would undo themselves: found before anything is read or written.

use sql::plan::PlannedSink;
use sql::{Diagnostic, Diagnostics, Plan, Project, TableDeclaration};

/// A log and its servers, as a table names them, and one of its topics.
type TopicOf<'a> = (&'a str, String, String);

/// The topic that an option of a table names.
fn topic_of<'a>(table: &'a TableDeclaration, option: &str) -> Option<TopicOf<'a>> {
    let options = table.options.values();
    let servers = options.get("brokers").or_else(|| options.get("endpoint"))?.clone();
    let topic = options.get(option).filter(|topic| !topic.starts_with("file:"))?.clone();
    Some((&table.connector.0, servers, topic))
}

/// Reports topics that would be fed by what is read of them, or that two write.
pub fn check(project: &Project, plan: &Plan, wrong: &mut Diagnostics) {
    let written: Vec<(&TableDeclaration, &PlannedSink)> =
        plan.sinks.iter().filter_map(|sink| Some((project.tables.get(&sink.table)?, sink))).collect();
    let is_read = |table: &&TableDeclaration| !project.is_sink(&table.name);
    for (place, (table, sink)) in written.iter().enumerate() {
        let Some(topic) = topic_of(table, "topic") else { continue };
        let is_same = |other: &TableDeclaration| topic_of(other, "topic").as_ref() == Some(&topic);
        if let Some((other, _)) = written[..place].iter().find(|(other, _)| is_same(other)) {
            let what = format!(
                "topic `{}` is written for table `{}` too: each would take the other's rows away",
                topic.2, other.name
            );
            wrong.push(
                Diagnostic::at(table.place.clone(), what)
                    .help("a topic belongs to one query: write UNION ALL in it, or to two topics"),
            );
        }
        let read =
            plan.program.projection_id(&sink.projection).map(|id| plan.program.tables_of(id)).unwrap_or_default();
        let is_fed = |other: &&TableDeclaration| {
            is_read(other) && is_same(other) && plan.tables.get(&other.name).is_some_and(|id| read.contains(id))
        };
        if let Some(other) = project.tables.values().find(is_fed) {
            let what = format!(
                "what is written to topic `{}` is read again by its own query, as table `{}`",
                topic.2, other.name
            );
            wrong.push(
                Diagnostic::at(table.place.clone(), what)
                    .help("write to another topic: this one would never come to rest"),
            );
        }
    }
    for table in project.tables.values().filter(is_read) {
        let Some(letters) = topic_of(table, "dead_letters") else { continue };
        let other = project.tables.values().find(|other| topic_of(other, "topic").as_ref() == Some(&letters));
        let Some(other) = other else { continue };
        let what = if project.is_sink(&other.name) {
            format!(
                "dead letters of `{}` go to topic `{}`, which has the rows of `{}`",
                table.name, letters.2, other.name
            )
        } else {
            format!(
                "dead letters of `{}` go to topic `{}`, which is read as `{}`: they would become letters again",
                table.name, letters.2, other.name
            )
        };
        wrong.push(Diagnostic::at(table.place.clone(), what).help("name a topic that is for letters alone"));
    }
}
