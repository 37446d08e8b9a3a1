//! A shop, with the tables of `examples/storefront`.
//!
//! ```text
//!  bought: open ─► paid ─► packed ─► shipped ─► delivered ─► cleared away
//!          └─────────── counted by `at_work` ─┘
//! ```
//!
//! It runs for ever in bounded memory: with as many orders at work as it takes on
//! nobody buys, and delivered orders are cleared away faster than they come about.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::Op;

use super::random::Random;
use super::rows::{Change, Kind, Row, Value};
use super::shape::{Shape, Table, World};

/// `shape = 'storefront'`. It begins with `rows` orders.
pub const SHAPE: Shape = Shape {
    name: "storefront",
    tables: &[
        Table {
            name: "customers",
            columns: &[("id", Kind::Long), ("name", Kind::Text), ("region", Kind::Text)],
            key: &[0],
        },
        Table {
            name: "products",
            columns: &[("id", Kind::Long), ("name", Kind::Text), ("price", Kind::Money)],
            key: &[0],
        },
        Table {
            name: "orders",
            columns: &[
                ("id", Kind::Long),
                ("customer_id", Kind::Long),
                ("status", Kind::Text),
                ("placed_at", Kind::MomentUtc),
            ],
            key: &[0],
        },
        Table {
            name: "order_lines",
            columns: &[
                ("order_id", Kind::Long),
                ("line", Kind::Int),
                ("product_id", Kind::Long),
                ("quantity", Kind::Int),
                ("price", Kind::Money),
            ],
            key: &[0, 1],
        },
    ],
    rows_default: 500,
    make: |seed, rows| Box::new(Shop::new(seed, rows)),
};

const CUSTOMERS: usize = 0;
const PRODUCTS: usize = 1;
const ORDERS: usize = 2;
const ORDER_LINES: usize = 3;

const FIRST_NAMES: [&str; 10] = ["Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ida", "Jon"];
const LAST_NAMES: [&str; 8] = ["Adler", "Berg", "Costa", "Dietz", "Ekman", "Fabre", "Gruber", "Hansen"];
const REGIONS: [&str; 4] = ["north", "south", "east", "west"];
const MATERIALS: [&str; 5] = ["oak", "steel", "linen", "clay", "glass"];
const THINGS: [&str; 6] = ["chair", "lamp", "bowl", "table", "shelf", "rug"];
const STATUSES: [&str; 5] = ["open", "paid", "packed", "shipped", "delivered"];
const DELIVERED: usize = STATUSES.len() - 1;

/// 2026-01-01 in microseconds since 1970-01-01 (UTC): the shop opens.
const OPENED_MICROS: i64 = 1_767_225_600_000_000;
const SECOND_MICROS: i64 = 1_000_000;
/// The initial orders were placed in this time; the first transaction comes after it.
const PAST_MICROS: i64 = 300 * 24 * 3600 * SECOND_MICROS;

/// The dearest that anything gets, in cents.
const PRICE_MAX: i64 = 1_000_000;

struct Customer {
    name: String,
    region: &'static str,
}

struct Product {
    name: String,
    cents: i64,
}

struct Order {
    customer_id: i64,
    /// Place in [`STATUSES`].
    status: usize,
    placed_at: i64,
    lines: Vec<Line>,
}

struct Line {
    product_id: i64,
    quantity: i64,
    /// What it was bought for.
    cents: i64,
}

/// A shop.
pub struct Shop {
    random: Random,
    /// The shop's own time, in microseconds since 1970-01-01 (UTC).
    now: i64,
    /// Ids are places, from 1.
    customers: Vec<Customer>,
    products: Vec<Product>,
    orders: BTreeMap<i64, Order>,
    /// Ids of the orders that are not yet delivered, and of those that are.
    at_work: BTreeSet<i64>,
    delivered: BTreeSet<i64>,
    next_order: i64,
    /// Orders at work that are as many as the shop takes on.
    busy: usize,
    /// Delivered orders that are kept.
    kept: usize,
}

impl Shop {
    /// A shop of so many orders, with two customers to five of them and a product to ten.
    #[must_use]
    pub fn new(seed: u64, orders: u64) -> Shop {
        let mut random = Random::new(seed);
        let customers = (0..(orders * 2 / 5).max(20)).map(|_| Customer::new(&mut random)).collect();
        let products = (1..=(orders / 10).max(10)).map(|id| Product::new(id, &mut random)).collect();
        let orders_begun = usize::try_from(orders).unwrap_or(usize::MAX);
        let mut shop = Shop {
            random,
            now: OPENED_MICROS,
            customers,
            products,
            orders: BTreeMap::new(),
            at_work: BTreeSet::new(),
            delivered: BTreeSet::new(),
            next_order: 1,
            busy: orders_begun.max(50),
            kept: orders_begun / 20,
        };
        for _ in 0..orders {
            let id = shop.place_order();
            shop.set_status(id, |random| random.place(STATUSES.len()));
            shop.now += PAST_MICROS / orders.cast_signed();
        }
        shop.now = OPENED_MICROS + PAST_MICROS;
        shop
    }

    /// An order of one to four products, of one of nine customers in ten: some never buy.
    fn place_order(&mut self) -> i64 {
        let random = &mut self.random;
        let buyers = self.customers.len() * 9 / 10;
        let customer_id = id_at(random.place(buyers));
        let mut lines: Vec<Line> = Vec::new();
        for _ in 0..=random.place(4) {
            let place = random.place(self.products.len());
            let quantity = 1 + random.up_to(5);
            // What was picked already is not picked again.
            if lines.iter().all(|line| line.product_id != id_at(place)) {
                lines.push(Line { product_id: id_at(place), quantity, cents: self.products[place].cents });
            }
        }
        let id = self.next_order;
        self.next_order += 1;
        self.orders.insert(id, Order { customer_id, status: 0, placed_at: self.now, lines });
        self.at_work.insert(id);
        id
    }

    fn set_status(&mut self, id: i64, status: impl FnOnce(&mut Random) -> usize) {
        let Some(order) = self.orders.get_mut(&id) else { return };
        order.status = status(&mut self.random);
        if order.status == DELIVERED {
            self.at_work.remove(&id);
            self.delivered.insert(id);
        }
    }

    /// Somebody buys: an order and its lines in one transaction.
    fn buy(&mut self) -> Vec<Change> {
        let id = self.place_order();
        let order = &self.orders[&id];
        let lines = order.lines_of(id).map(|row| Change { table: ORDER_LINES, op: Op::Insert, row });
        std::iter::once(Change { table: ORDERS, op: Op::Insert, row: order.row(id) }).chain(lines).collect()
    }

    /// One of the orders that have waited longest advances.
    fn advance(&mut self) -> Option<Vec<Change>> {
        let chosen = self.random.place(self.at_work.len().min(100));
        let id = *self.at_work.iter().nth(chosen)?;
        let next = self.orders[&id].status + 1;
        self.set_status(id, |_| next);
        Some(vec![Change { table: ORDERS, op: Op::Update, row: self.orders[&id].row(id) }])
    }

    /// The oldest delivered order is cleared away, with its lines.
    fn clear(&mut self) -> Option<Vec<Change>> {
        if self.delivered.len() <= self.kept {
            return None;
        }
        let id = self.delivered.pop_first()?;
        let order = self.orders.remove(&id)?;
        let lines = order.lines_of(id).map(|row| Change { table: ORDER_LINES, op: Op::Delete, row });
        let order = Change { table: ORDERS, op: Op::Delete, row: order.row(id) };
        Some(lines.chain(std::iter::once(order)).collect())
    }

    /// A price goes up or down by a tenth at most.
    fn change_price(&mut self) -> Vec<Change> {
        let place = self.random.place(self.products.len());
        let product = &mut self.products[place];
        product.cents = (product.cents * (900 + self.random.up_to(201)) / 1000).clamp(100, PRICE_MAX);
        vec![Change { table: PRODUCTS, op: Op::Update, row: product.row(id_at(place)) }]
    }

    /// A customer moves.
    fn change_region(&mut self) -> Vec<Change> {
        let place = self.random.place(self.customers.len());
        let customer = &mut self.customers[place];
        customer.region = self.random.pick(&REGIONS);
        vec![Change { table: CUSTOMERS, op: Op::Update, row: customer.row(id_at(place)) }]
    }
}

impl World for Shop {
    fn rows(&self, table: usize) -> Box<dyn Iterator<Item = Row> + Send + '_> {
        match table {
            CUSTOMERS => Box::new(self.customers.iter().enumerate().map(|(place, it)| it.row(id_at(place)))),
            PRODUCTS => Box::new(self.products.iter().enumerate().map(|(place, it)| it.row(id_at(place)))),
            ORDERS => Box::new(self.orders.iter().map(|(&id, order)| order.row(id))),
            _ => Box::new(self.orders.iter().flat_map(|(&id, order)| order.lines_of(id))),
        }
    }

    fn past(&self) -> u64 {
        0
    }

    fn transact(&mut self) -> Vec<Change> {
        self.now += (1 + self.random.up_to(120)) * SECOND_MICROS;
        // An order takes four steps to be delivered, so with nobody buying because of too much work,
        // steps deliver 0.73 / 5 of the time, which is less than what is cleared away.
        let dice = self.random.up_to(100);
        let changes = match dice {
            0..55 => self.advance(),
            55..73 if self.at_work.len() < self.busy => Some(self.buy()),
            55..73 => self.advance(),
            73..80 => Some(self.change_price()),
            80..84 => Some(self.change_region()),
            _ => self.clear(),
        };
        changes.unwrap_or_else(|| self.buy_or_advance())
    }
}

impl Shop {
    /// For when there was nothing to advance or to clear.
    fn buy_or_advance(&mut self) -> Vec<Change> {
        if self.at_work.len() < self.busy { self.buy() } else { self.advance().unwrap_or_default() }
    }
}

impl Customer {
    fn new(random: &mut Random) -> Customer {
        let name = format!("{} {}", random.pick(&FIRST_NAMES), random.pick(&LAST_NAMES));
        Customer { name, region: random.pick(&REGIONS) }
    }

    fn row(&self, id: i64) -> Row {
        vec![Value::Number(id), self.name.clone().into(), self.region.into()]
    }
}

impl Product {
    fn new(id: u64, random: &mut Random) -> Product {
        let name = format!("{} {} no. {id}", random.pick(&MATERIALS), random.pick(&THINGS));
        Product { name, cents: 500 + random.up_to(19_501) }
    }

    fn row(&self, id: i64) -> Row {
        vec![Value::Number(id), self.name.clone().into(), Value::Cents(self.cents)]
    }
}

impl Order {
    fn row(&self, id: i64) -> Row {
        vec![
            Value::Number(id),
            Value::Number(self.customer_id),
            STATUSES[self.status].into(),
            Value::Micros(self.placed_at),
        ]
    }

    fn lines_of(&self, id: i64) -> impl Iterator<Item = Row> + Send {
        self.lines.iter().zip(1..).map(move |(line, number)| {
            vec![
                Value::Number(id),
                Value::Number(number),
                Value::Number(line.product_id),
                Value::Number(line.quantity),
                Value::Cents(line.cents),
            ]
        })
    }
}

/// What stands at a place of a list has the place's number, from 1.
fn id_at(place: usize) -> i64 {
    place as i64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashMap;

    /// The tables as somebody holds them who has only heard what was told.
    fn hold(held: &mut HashMap<(usize, Vec<Value>), Row>, change: Change) {
        let key = SHAPE.tables[change.table].key.iter().map(|&place| change.row[place].clone()).collect();
        let before = match change.op {
            Op::Delete => held.remove(&(change.table, key)),
            _ => held.insert((change.table, key), change.row.clone()),
        };
        assert_eq!(before.is_some(), change.op != Op::Insert, "{change:?} on {before:?}");
    }

    /// A shop that has long been open is as large as one that has been open for a while, and what was
    /// told of it is what it is.
    #[test]
    fn a_shop_runs_for_ever_and_tells_all_of_it() {
        for orders in [0, 3, 500] {
            let mut shop = Shop::new(7, orders);
            let mut held = HashMap::new();
            for table in 0..SHAPE.tables.len() {
                shop.rows(table).for_each(|row| hold(&mut held, Change { table, op: Op::Insert, row }));
            }
            let mut happened = [0; 4];
            for _ in 0..50_000 {
                let changes = shop.transact();
                assert!(!changes.is_empty());
                changes.into_iter().for_each(|change| {
                    happened[change.table] += 1;
                    hold(&mut held, change);
                });
            }
            let mut all = 0;
            for table in 0..SHAPE.tables.len() {
                for row in shop.rows(table) {
                    let key = SHAPE.tables[table].key.iter().map(|&place| row[place].clone()).collect();
                    assert_eq!(held.get(&(table, key)), Some(&row));
                    all += 1;
                }
            }
            assert_eq!(held.len(), all);
            assert!(happened.iter().all(|&times| times > 1000), "{happened:?}");
            let (busy, kept) = (shop.busy, shop.kept);
            assert!(
                shop.orders.len() <= busy + kept + 100,
                "{} orders after a beginning of {orders}",
                shop.orders.len()
            );
            assert!(shop.at_work.len() > busy / 10, "it has next to nothing to do");
        }
    }
}
