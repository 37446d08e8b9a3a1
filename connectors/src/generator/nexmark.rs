//! An auction house, as benchmarks know it.
//!
//! Nexmark (Tucker, Tufte, Papadimos, Maier: "NEXMark: a benchmark for queries over data streams",
//! 2008), with the proportions, hot keys and value ranges that Apache Beam's generator has by default:
//!
//! ```text
//!  of 50 events:  1 person   3 auctions   46 bids
//!                 half of the bids go to the newest hot auction, three of four bids and auctions
//!                 come from the newest hot person
//! ```
//!
//! Each event is a transaction. Rows are only ever added, so projections that keep all of them grow
//! for as long as it runs. Event times are the seed's and not the clock's, as everything in rows.

use super::random::Random;
use super::rows::{Change, Kind, Row, Value};
use super::shape::{Shape, Table, World};
use pipeline::Op;

/// `shape = 'nexmark'`. `rows` events happened before anybody looked.
pub const SHAPE: Shape = Shape {
    name: "nexmark",
    tables: &[
        Table {
            name: "person",
            columns: &[
                ("id", Kind::Long),
                ("name", Kind::Text),
                ("email_address", Kind::Text),
                ("credit_card", Kind::Text),
                ("city", Kind::Text),
                ("state", Kind::Text),
                ("date_time", Kind::Moment),
            ],
            key: &[],
        },
        Table {
            name: "auction",
            columns: &[
                ("id", Kind::Long),
                ("item_name", Kind::Text),
                ("description", Kind::Text),
                ("initial_bid", Kind::Long),
                ("reserve", Kind::Long),
                ("date_time", Kind::Moment),
                ("expires", Kind::Moment),
                ("seller", Kind::Long),
                ("category", Kind::Long),
            ],
            key: &[],
        },
        Table {
            name: "bid",
            columns: &[
                ("auction", Kind::Long),
                ("bidder", Kind::Long),
                ("price", Kind::Long),
                ("date_time", Kind::Moment),
            ],
            key: &[],
        },
    ],
    rows_default: 1000,
    make: |seed, rows| Box::new(House { random: Random::new(seed), event: 0, past: rows }),
};

const PERSON: usize = 0;
const AUCTION: usize = 1;
const BID: usize = 2;

// Beam's words: `personProportion`, `auctionProportion`, and the two with `bidProportion`.
const PERSONS_OF_50: u64 = 1;
const AUCTIONS_OF_50: u64 = 3;
const EVENTS: u64 = 50;

/// Ids begin here, so that a mistaken place is no id.
const FIRST_ID: i64 = 1000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: i64 = 5;

/// Persons who bid and sell, of the newest.
const ACTIVE_PERSONS: i64 = 1000;
/// Auctions that are bid on, of the newest.
const AUCTIONS_IN_FLIGHT: i64 = 100;
/// Bids and auctions may come up to so many persons or auctions ahead of those whom they name.
const LEAD: i64 = 10;
/// One of so many persons or auctions is hot.
const HOT_EVERY: i64 = 100;
/// One of so many bids goes to an auction that is not hot; of bids and auctions one of four is of a
/// person who is not.
const COLD_AUCTION_OF: i64 = 2;
const COLD_PERSON_OF: i64 = 4;

/// 2015-07-15, where Beam's events begin, in microseconds since 1970-01-01.
const BASE_MICROS: i64 = 1_436_918_400_000_000;
/// From event to event. Beam has 100 µs, for millions of events; a window of a minute would then be
/// empty of everything that a demo of 50 a second can show in its first hours.
const STEP_MICROS: i64 = 10_000;

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];

/// An auction house.
pub struct House {
    random: Random,
    /// The number of the next event.
    event: u64,
    past: u64,
}

impl World for House {
    fn rows(&self, _table: usize) -> Box<dyn Iterator<Item = Row> + Send + '_> {
        Box::new(std::iter::empty())
    }

    fn past(&self) -> u64 {
        self.past
    }

    fn transact(&mut self) -> Vec<Change> {
        let place = self.event % EVENTS;
        let (table, row) = if place < PERSONS_OF_50 {
            (PERSON, self.person())
        } else if place < PERSONS_OF_50 + AUCTIONS_OF_50 {
            (AUCTION, self.auction())
        } else {
            (BID, self.bid())
        };
        self.event += 1;
        vec![Change { table, op: Op::Insert, row }]
    }
}

impl House {
    fn person(&mut self) -> Row {
        let id = FIRST_ID + self.last_person();
        let random = &mut self.random;
        let name = format!("{} {}", random.pick(&FIRST_NAMES), random.pick(&LAST_NAMES));
        let email = format!("{}@{}.com", word(random, 7), word(random, 5));
        let card: Vec<String> = (0..4).map(|_| format!("{:04}", random.below(10_000))).collect();
        let (city, state) = (random.pick(&CITIES), random.pick(&STATES));
        let id = Value::Number(id);
        vec![id, name.into(), email.into(), card.join(" ").into(), city.into(), state.into(), self.time()]
    }

    fn auction(&mut self) -> Row {
        let id = Value::Number(FIRST_ID + self.last_auction());
        let seller = self.someone(0);
        let category = Value::Number(FIRST_CATEGORY + self.random.up_to(CATEGORIES));
        let first = self.price();
        let reserve = first + self.price();
        let (item, description) = (word(&mut self.random, 20), word(&mut self.random, 100));
        let expires = Value::Micros(self.micros() + self.auction_micros());
        let (first, reserve) = (Value::Number(first), Value::Number(reserve));
        vec![id, item.into(), description.into(), first, reserve, self.time(), expires, seller, category]
    }

    fn bid(&mut self) -> Row {
        let newest = self.last_auction();
        let auction = if self.random.up_to(COLD_AUCTION_OF) > 0 {
            newest / HOT_EVERY * HOT_EVERY
        } else {
            let oldest = (newest - AUCTIONS_IN_FLIGHT).max(0);
            oldest + self.random.up_to(newest - oldest + 1 + LEAD)
        };
        // The hottest of bidders is another than the hottest of sellers.
        let bidder = self.someone(1);
        let price = self.price();
        vec![Value::Number(FIRST_ID + auction), bidder, Value::Number(price), self.time()]
    }

    /// Three times of four the newest hot person, who stands `beside` the first of a hundred.
    fn someone(&mut self, beside: i64) -> Value {
        let newest = self.last_person();
        let person = if self.random.up_to(COLD_PERSON_OF) > 0 {
            newest / HOT_EVERY * HOT_EVERY + beside
        } else {
            let persons = newest + 1;
            let active = persons.min(ACTIVE_PERSONS);
            persons - active + self.random.up_to(active + LEAD)
        };
        Value::Number(FIRST_ID + person)
    }

    /// The newest person's number, from 0.
    fn last_person(&self) -> i64 {
        (self.event / EVENTS).cast_signed()
    }

    /// The newest auction's number, from 0; before the first one, the last before it: -1.
    fn last_auction(&self) -> i64 {
        let begun = (self.event % EVENTS + 1).saturating_sub(PERSONS_OF_50).min(AUCTIONS_OF_50);
        (self.event / EVENTS * AUCTIONS_OF_50 + begun).cast_signed() - 1
    }

    /// A price in cents, from 1.00 to 1,000,000.00: as many of one length as of another.
    fn price(&mut self) -> i64 {
        (10_f64.powf(self.random.fraction() * 6.0) * 100.0).round() as i64
    }

    /// How long an auction goes: between nothing and twice the time in which as many auctions begin as
    /// are in flight.
    fn auction_micros(&mut self) -> i64 {
        const HORIZON: i64 = AUCTIONS_IN_FLIGHT * EVENTS as i64 / AUCTIONS_OF_50 as i64 * STEP_MICROS;
        1000 + self.random.up_to(HORIZON * 2)
    }

    fn micros(&self) -> i64 {
        BASE_MICROS + self.event.cast_signed() * STEP_MICROS
    }

    fn time(&self) -> Value {
        Value::Micros(self.micros())
    }
}

/// A word of three letters at least and of less than `len_max`, as nobody would say it.
fn word(random: &mut Random, len_max: u64) -> String {
    let len = 3 + random.below(len_max - 3);
    (0..len).map(|_| (b'a' + random.below(26) as u8) as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashMap;

    fn events(count: usize) -> Vec<Change> {
        let mut house = (SHAPE.make)(3, 0);
        (0..count).flat_map(|_| house.transact()).collect()
    }

    fn numbers(events: &[Change], table: usize, column: usize) -> Vec<i64> {
        let of_table = events.iter().filter(|change| change.table == table);
        of_table.map(|change| if let Value::Number(number) = change.row[column] { number } else { 0 }).collect()
    }

    #[test]
    fn of_50_events_one_is_a_person_three_are_auctions_and_ids_have_no_holes() {
        let events = events(5000);
        for fifty in events.chunks(50) {
            let tables: Vec<usize> = fifty.iter().map(|change| change.table).collect();
            assert_eq!((tables[0], &tables[1..4], tables[4..] == [BID; 46]), (PERSON, &[AUCTION; 3][..], true));
        }
        assert_eq!(numbers(&events, PERSON, 0), (1000..1100).collect::<Vec<_>>());
        assert_eq!(numbers(&events, AUCTION, 0), (1000..1300).collect::<Vec<_>>());
        assert!(events.iter().all(|change| change.op == Op::Insert));
    }

    /// Half of the bids and three quarters of the bidders and sellers are hot; the others are spread.
    #[test]
    fn hot_keys_are_as_hot_as_beams() {
        let events = events(500_000);
        let hot = |table, column, beside: i64| {
            let ids = numbers(&events, table, column);
            let hot = ids.iter().filter(|&&id| (id - FIRST_ID) % HOT_EVERY == beside).count();
            hot * 100 / ids.len()
        };
        assert!((50..=51).contains(&hot(BID, 0, 0)), "{}", hot(BID, 0, 0));
        assert!((75..=76).contains(&hot(BID, 1, 1)), "{}", hot(BID, 1, 1));
        assert!((75..=76).contains(&hot(AUCTION, 7, 0)), "{}", hot(AUCTION, 7, 0));
        let mut bids: HashMap<i64, u32> = HashMap::new();
        numbers(&events, BID, 0).into_iter().for_each(|auction| *bids.entry(auction).or_default() += 1);
        assert!(bids.len() > 29_000, "{} of 30,000 auctions were bid on", bids.len());
    }

    #[test]
    fn prices_and_lengths_are_in_their_ranges() {
        let events = events(50_000);
        let prices = numbers(&events, BID, 2);
        assert!(prices.iter().all(|price| (100..=100_000_000).contains(price)));
        let cheap = prices.iter().filter(|&&price| price < 100_000).count() * 100 / prices.len();
        assert!((48..=52).contains(&cheap), "{cheap} of 100 cost less than 1000.00");
        for auction in events.iter().filter(|change| change.table == AUCTION) {
            let (Value::Micros(begun), Value::Micros(expires)) = (&auction.row[5], &auction.row[6]) else {
                panic!("moments: {auction:?}")
            };
            assert!((1000..34_000_000).contains(&(expires - begun)));
        }
    }
}
