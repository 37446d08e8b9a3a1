//! What columns of a table promise that no source keeps.
//!
//! `NOT NULL`, `CHECK` and the like are a database's to keep. Rows of a topic, or made-up ones, come as they are:
//! taken there in silence, a promise would be believed by whoever reads the file, and kept by nobody.

use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, ColumnDef, ColumnOption, DataType};

/// The connector whose databases keep what is promised.
pub const KEPT_BY: &str = "postgres";

/// What a column promises beside its type, each with what to write instead.
#[must_use]
pub fn of_column(column: &ColumnDef, is_of_key: bool) -> Vec<(String, String)> {
    let name = &column.name;
    let mut promises = Vec::new();
    if let Some(of) = bounded_text(&column.data_type) {
        promises.push((of.to_string(), "write TEXT, which has any length".to_owned()));
    }
    for option in &column.options {
        let (promise, remedy) = match &option.option {
            ColumnOption::PrimaryKey(_) | ColumnOption::Null | ColumnOption::Comment(_) => continue,
            // A row of the source has a key, or is none.
            ColumnOption::NotNull if is_of_key => continue,
            ColumnOption::NotNull => {
                ("NOT NULL", format!("leave NOT NULL out, and filter in queries: WHERE {name} IS NOT NULL"))
            }
            ColumnOption::Default(of) => {
                ("with a DEFAULT", format!("leave DEFAULT out, and write coalesce({name}, {of}) in queries"))
            }
            ColumnOption::Check(_) => ("with a CHECK", "leave CHECK out, and filter in queries".to_owned()),
            ColumnOption::Unique(_) => {
                ("UNIQUE", "leave UNIQUE out: rows are told apart by the PRIMARY KEY alone".to_owned())
            }
            ColumnOption::Generated { .. } | ColumnOption::Identity(_) => {
                ("GENERATED", "leave it out, and compute it in a view".to_owned())
            }
            ColumnOption::ForeignKey(_) => ("with REFERENCES", "leave REFERENCES out".to_owned()),
            other => {
                promises.push((other.to_string(), "leave it out".to_owned()));
                continue;
            }
        };
        promises.push((promise.to_owned(), remedy));
    }
    promises
}

/// The type of text that has a length, in a column or in its items.
fn bounded_text(of: &DataType) -> Option<&DataType> {
    match of {
        DataType::Varchar(Some(_))
        | DataType::Nvarchar(Some(_))
        | DataType::CharVarying(Some(_))
        | DataType::CharacterVarying(Some(_))
        | DataType::Char(Some(_))
        | DataType::Character(Some(_)) => Some(of),
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::AngleBracket(item)) => {
            bounded_text(item)
        }
        _ => None,
    }
}
