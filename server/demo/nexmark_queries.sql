-- Some of Nexmark's queries, each as a live projection. Amounts are in cents.

-- Query 1 turns every bid from dollars into euros; of those the latest hundred, since a page that
-- shows all of them grows for ever.
CREATE MATERIALIZED VIEW q1_latest_bids_in_euros WITH (
    public = 'true', description = 'Q1: the latest hundred bids, in euros', batch = '100ms'
  ) AS
  SELECT auction, bidder, CAST(0.908 * price AS NUMERIC(20,2)) AS price, date_time
  FROM bid
  ORDER BY date_time DESC, auction, bidder
  LIMIT 100;

CREATE MATERIALIZED VIEW q2_bids_on_some_auctions WITH (
    public = 'true', description = 'Q2: bids on every 23rd auction'
  ) AS
  SELECT auction, bidder, price, date_time
  FROM bid
  WHERE auction % 23 = 0;

CREATE MATERIALIZED VIEW q3_local_sellers WITH (
    public = 'true', description = 'Q3: who sells in category 10, in three states'
  ) AS
  SELECT p.name, p.city, p.state, a.id AS auction
  FROM auction a
  JOIN person p ON p.id = a.seller
  WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA');

-- The highest bid while the auction was open. An auction without a bid has none.
CREATE VIEW highest_bids AS
  SELECT a.id, a.category, a.seller, max(b.price) AS price
  FROM auction a
  JOIN bid b ON b.auction = a.id
  WHERE b.date_time >= a.date_time AND b.date_time <= a.expires
  GROUP BY a.id, a.category, a.seller;

-- Query 4 waits for auctions to close. Here the average moves with every bid, as no clock tells that
-- an auction is over.
CREATE MATERIALIZED VIEW q4_average_price_by_category WITH (
    public = 'true', description = 'Q4: the average of the highest bids, by category'
  ) AS
  SELECT category, count(*) AS auctions, CAST(avg(price) AS NUMERIC(20,2)) AS average
  FROM highest_bids
  GROUP BY category;

-- Query 5 asks for the hottest auction of each window that slides; these windows are minutes, side by
-- side.
CREATE MATERIALIZED VIEW q5_hot_auctions WITH (
    public = 'true', description = 'Q5: the ten auctions that were bid on most in a minute', batch = '100ms'
  ) AS
  SELECT date_trunc('minute', date_time) AS minute, auction, count(*) AS bids
  FROM bid
  GROUP BY date_trunc('minute', date_time), auction
  ORDER BY bids DESC, minute, auction
  LIMIT 10;

CREATE MATERIALIZED VIEW q7_highest_bid_by_minute WITH (
    public = 'true', description = 'Q7: bids and the highest of them, by minute', key = 'minute'
  ) AS
  SELECT date_trunc('minute', date_time) AS minute, count(*) AS bids, max(price) AS highest
  FROM bid
  GROUP BY date_trunc('minute', date_time);
