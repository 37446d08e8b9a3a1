//! What a project says of its Postgres tables, and which of them are read together.

use crate::source::{Connector, Opened, Problem, TableOption, TableRequest as Wanted};

use super::catalog::TableRequest;
use super::connect::Target;
use super::error::{Response, SourceError, chain, response_to};
use super::publication::Publication;
use super::source::{Postgres, SourceOptions};

/// `WITH (connector = 'postgres')`.
pub const CONNECTOR: Connector = Connector {
    name: "postgres",
    of_tables: "a Postgres table",
    options: &[
        TableOption::required("url", "add url = '${DATABASE_URL}', such as postgres://user:password@host/database"),
        TableOption::optional("table"),
        TableOption::optional("source"),
        TableOption::optional("publication"),
        TableOption::optional("slot"),
    ],
    open,
};

/// Tables of one database and publication are one source: one slot, one order of transactions.
fn open(project: &str, tables: Vec<Wanted>) -> Opened {
    let default_name = format!("deltafront_{project}");
    let mut sources: Vec<Postgres> = Vec::new();
    let mut problems = Vec::new();
    for mut table in tables {
        let target = match Target::parse(&table.options.remove("url").unwrap_or_default()) {
            Ok(target) => target,
            Err(error) => {
                problems.push(problem(Some(table.name), &error));
                continue;
            }
        };
        let publication = match table.options.remove("publication") {
            Some(name) => Publication { name, is_ours: false },
            None => Publication { name: default_name.clone(), is_ours: true },
        };
        let options = SourceOptions {
            name: table.options.remove("source").unwrap_or_else(|| target.database.clone()),
            publication,
            slot: table.options.remove("slot").unwrap_or_else(|| default_name.clone()),
        };
        let (schema, name) = match table.options.remove("table") {
            None => ("public".to_owned(), table.name.clone()),
            Some(name) => match name.split_once('.') {
                Some((schema, name)) => (schema.to_owned(), name.to_owned()),
                None => ("public".to_owned(), name),
            },
        };
        let request = TableRequest { name: table.name, schema, table: name, columns: table.columns };
        match sources.iter_mut().find(|source| source.reads_from(&target, &options)) {
            Some(source) => source.add(request),
            None => sources.push(Postgres::new(target, options, request)),
        }
    }
    Opened { sources: sources.into_iter().map(|source| Box::new(source) as _).collect(), problems }
}

/// An error in the words of all sources.
pub(super) fn problem(table: Option<String>, error: &SourceError) -> Problem {
    let remedy = match response_to(error) {
        Response::Stop(remedy) => remedy,
        Response::Retry => {
            "start the database, or check host and port in the url; `check --offline` asks no database".to_owned()
        }
    };
    Problem { table, what: chain(error), remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, options: &[(&str, &str)]) -> Wanted {
        let options = options.iter().map(|&(option, value)| (option.to_owned(), value.to_owned())).collect();
        Wanted { name: name.to_owned(), options, columns: None, key: Vec::new() }
    }

    #[test]
    fn tables_of_one_database_are_one_source_and_a_bad_url_is_its_tables_problem() {
        let shop = ("url", "postgres://ann:secret@db/shop");
        let opened = open(
            "test",
            vec![
                wanted("a", &[shop]),
                wanted("b", &[shop, ("table", "sales.orders")]),
                wanted("c", &[("url", "postgres://db/other")]),
                wanted("d", &[shop, ("slot", "mine"), ("source", "again")]),
                wanted("e", &[("url", "postgres://ann:secret@db/shop?sslmode=maybe")]),
            ],
        );
        let sources: Vec<(&str, Vec<&str>)> =
            opened.sources.iter().map(|source| (source.name(), source.table_names())).collect();
        assert_eq!(sources, [("shop", vec!["a", "b"]), ("other", vec!["c"]), ("again", vec!["d"])]);
        let [problem] = &opened.problems[..] else { panic!("one problem: {:?}", opened.problems) };
        assert_eq!((problem.table.as_deref(), problem.what.as_str()), (Some("e"), "there is no sslmode maybe"));
    }
}
