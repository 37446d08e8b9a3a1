//! What a project says of its made-up tables, and which of them are of one world.

use std::str::FromStr;

use crate::source::{Connector, Opened, Problem, Source, TableOption, TableRequest};

use super::rows::Columns;
use super::shape::{SHAPES, Shape, Table};
use super::source::{GeneratedTable, Generator, Making};

/// `WITH (connector = 'generator')`.
pub const CONNECTOR: Connector = Connector {
    name: "generator",
    of_tables: "a generated table",
    options: &[
        TableOption::required("shape", "add shape = 'storefront' (a shop) or shape = 'nexmark' (an auction house)"),
        TableOption::optional("table"),
        TableOption::optional("seed"),
        TableOption::optional("rate"),
        TableOption::optional("rows"),
        TableOption::optional("transactions"),
    ],
    open,
    ..Connector::NONE
};

/// Transactions a second, where a project does not say.
const RATE_DEFAULT: f64 = 10.0;
/// As much as a world may begin with: it is kept in memory.
const ROWS_MAX: u64 = 1_000_000;

/// Tables that say the same, besides which table they are, are of one world: a transaction goes
/// across them as it would in a database.
fn open(_project: &str, requests: Vec<TableRequest>) -> Opened {
    let mut sources: Vec<Generator> = Vec::new();
    let mut problems = Vec::new();
    for request in requests {
        let read = making(&request).and_then(|making| Ok((table(&request, making.shape)?, making)));
        match read {
            Ok((table, making)) => match sources.iter_mut().find(|source| source.making == making) {
                Some(source) => source.tables.push(table),
                None => sources.push(Generator { making, tables: vec![table] }),
            },
            Err(Mistake { what, remedy }) => problems.push(Problem { table: Some(request.name), what, remedy }),
        }
    }
    Opened { sources: sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect(), problems }
}

#[derive(Debug)]
struct Mistake {
    what: String,
    remedy: String,
}

fn making(request: &TableRequest) -> Result<Making, Mistake> {
    let option = |name: &str| request.options.get(name).map(String::as_str);
    let shape = shape(option("shape").unwrap_or_default())?;
    Ok(Making {
        shape,
        seed: option("seed").map_or(Ok(0), |text| whole("seed", text, u64::MAX))?,
        rate: option("rate").map_or(Ok(RATE_DEFAULT), |text| {
            rate(text).map_err(|remedy| Mistake { what: format!("`{text}` is no rate"), remedy })
        })?,
        rows: option("rows").map_or(Ok(shape.rows_default), |text| whole("rows", text, ROWS_MAX))?,
        transactions: option("transactions").map(|text| whole("transactions", text, u64::MAX)).transpose()?,
    })
}

fn shape(name: &str) -> Result<&'static Shape, Mistake> {
    SHAPES.iter().find(|shape| shape.name == name).ok_or_else(|| Mistake {
        what: format!("there is no shape `{name}`"),
        remedy: format!("the shapes are {}", listed(SHAPES.iter().map(|shape| shape.name))),
    })
}

/// Transactions a second, as text.
///
/// # Errors
/// With what to write, when it is not a number, or one that nobody can keep to.
pub fn rate(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        _ => Err("write transactions a second, such as 50 or 0.5; 0 is as fast as it goes".to_owned()),
    }
}

fn whole(option: &str, text: &str, max: u64) -> Result<u64, Mistake> {
    text.parse().ok().filter(|number| *number <= max).ok_or_else(|| Mistake {
        what: format!("`{text}` is no number of {option}"),
        remedy: format!("write {option} = 'N' with a whole number from 0 to {max}"),
    })
}

fn table(request: &TableRequest, shape: &'static Shape) -> Result<GeneratedTable, Mistake> {
    let wanted = request.options.get("table").unwrap_or(&request.name);
    let Some(place) = shape.tables.iter().position(|table| table.name == wanted) else {
        return Err(Mistake {
            what: format!("the shape {} has no table `{wanted}`", shape.name),
            remedy: format!(
                "name one with table = '…'; it has {}",
                listed(shape.tables.iter().map(|table| table.name))
            ),
        });
    };
    let table = &shape.tables[place];
    let columns = Columns::of(table.columns, column_places(request, table)?);
    let identity = table.identity(&columns).ok_or_else(|| {
        let key = listed(table.key.iter().map(|&place| table.columns[place].0));
        let what = format!("the key of `{}` is {key}, and not all of it is declared", table.name);
        Mistake { what, remedy: "declare every column of the key, or none".to_owned() }
    })?;
    Ok(GeneratedTable { name: request.name.clone(), place, columns, identity })
}

/// The columns that a project declares, or all.
fn column_places(request: &TableRequest, table: &Table) -> Result<Vec<usize>, Mistake> {
    let Some(declared) = &request.columns else { return Ok((0..table.columns.len()).collect()) };
    let place = |(name, data_type): &(String, _)| {
        let Some(place) = table.columns.iter().position(|(column, _)| column == name) else {
            return Err(Mistake {
                what: format!("`{}` has no column {name}", table.name),
                remedy: format!("it has {}", listed(table.columns.iter().map(|(column, _)| *column))),
            });
        };
        let kind = table.columns[place].1;
        if kind.data_type() == *data_type {
            return Ok(place);
        }
        let what = format!("column {name} of `{}` is declared as another type than it has", table.name);
        Err(Mistake { what, remedy: format!("write {name} {}, or declare no columns", kind.sql()) })
    };
    declared.iter().map(place).collect()
}

fn listed(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::datatypes::DataType;

    fn request(name: &str, options: &[(&str, &str)]) -> TableRequest {
        let options = options.iter().map(|&(option, value)| (option.to_owned(), value.to_owned())).collect();
        TableRequest { name: name.to_owned(), options, columns: None, key: Vec::new() }
    }

    #[test]
    fn tables_that_say_the_same_are_of_one_world() {
        let shop = ("shape", "storefront");
        let opened = open(
            "test",
            vec![
                request("orders", &[shop, ("seed", "7"), ("rate", "50")]),
                request("buyers", &[shop, ("table", "customers"), ("rate", "50.0"), ("seed", "7")]),
                request("customers", &[shop, ("seed", "8"), ("rate", "50")]),
                request("bid", &[("shape", "nexmark")]),
                request("orders_again", &[shop, ("table", "orders"), ("seed", "7"), ("rate", "50")]),
                request("products", &[shop, ("seed", "7"), ("rate", "50"), ("transactions", "9")]),
            ],
        );
        assert!(opened.problems.is_empty(), "{:?}", opened.problems);
        let sources: Vec<(&str, Vec<&str>)> =
            opened.sources.iter().map(|source| (source.name(), source.table_names())).collect();
        assert_eq!(
            sources,
            [
                ("storefront", vec!["orders", "buyers", "orders_again"]),
                ("storefront", vec!["customers"]),
                ("nexmark", vec!["bid"]),
                ("storefront", vec!["products"]),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_write() {
        let shop = ("shape", "storefront");
        let rate = "write transactions a second, such as 50 or 0.5; 0 is as fast as it goes";
        for (options, what, remedy) in [
            (vec![("shape", "Shop")], "there is no shape `Shop`", "the shapes are storefront, nexmark"),
            (
                vec![shop, ("table", "order")],
                "the shape storefront has no table `order`",
                "name one with table = '…'; it has customers, products, orders, order_lines",
            ),
            (vec![shop, ("rate", "fast")], "`fast` is no rate", rate),
            (vec![shop, ("rate", "-1")], "`-1` is no rate", rate),
            (vec![shop, ("rate", "inf")], "`inf` is no rate", rate),
            (vec![shop, ("rate", "NaN")], "`NaN` is no rate", rate),
            (
                vec![shop, ("rows", "1000001")],
                "`1000001` is no number of rows",
                "write rows = 'N' with a whole number from 0 to 1000000",
            ),
            (
                vec![shop, ("seed", "0.1")],
                "`0.1` is no number of seed",
                "write seed = 'N' with a whole number from 0 to 18446744073709551615",
            ),
            (
                vec![shop, ("transactions", "")],
                "`` is no number of transactions",
                "write transactions = 'N' with a whole number from 0 to 18446744073709551615",
            ),
        ] {
            let opened = open("test", vec![request("orders", &options)]);
            let [problem] = &opened.problems[..] else { panic!("one problem of {options:?}: {:?}", opened.problems) };
            assert_eq!((problem.table.as_deref(), &*problem.what, &*problem.remedy), (Some("orders"), what, remedy));
            assert!(opened.sources.is_empty());
        }
    }

    #[tokio::test]
    async fn declared_columns_are_read_in_their_order_and_must_be_those_of_the_shape() {
        let declared = |columns: &[(&str, DataType)]| {
            let mut request = request("order_lines", &[("shape", "storefront")]);
            request.columns = Some(columns.iter().map(|(name, it)| ((*name).to_owned(), it.clone())).collect());
            open("test", vec![request])
        };
        let (order, line) = (("order_id", DataType::Int64), ("line", DataType::Int32));
        let mut right = declared(&[("price", DataType::Decimal128(10, 2)), line.clone(), order.clone()]);
        let tables = right.sources[0].discover().await.expect("tables");
        let names: Vec<&str> = tables[0].schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!((names, tables[0].identity.key()), (vec!["price", "line", "order_id"], Some(&[2, 1][..])));
        for (columns, what, remedy) in [
            (
                vec![order.clone(), ("line", DataType::Int64)],
                "column line of `order_lines` is declared as another type than it has",
                "write line INT, or declare no columns",
            ),
            (
                vec![order.clone(), line, ("weight", DataType::Int64)],
                "`order_lines` has no column weight",
                "it has order_id, line, product_id, quantity, price",
            ),
            (
                vec![order],
                "the key of `order_lines` is order_id, line, and not all of it is declared",
                "declare every column of the key, or none",
            ),
        ] {
            let opened = declared(&columns);
            let [problem] = &opened.problems[..] else { panic!("one problem: {:?}", opened.problems) };
            assert_eq!((&*problem.what, &*problem.remedy), (what, remedy));
        }
    }
}
