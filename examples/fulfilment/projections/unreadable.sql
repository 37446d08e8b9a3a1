-- Messages that could not be read, by topic. `deltafront_dead_letters` has the newest of them, with the
-- reason, in every project that reads topics.
CREATE MATERIALIZED VIEW unreadable_messages WITH (
    description = 'Messages that could not be read', public = 'true'
  ) AS
  SELECT table_name, topic, count(*) AS messages, max(found_at) AS last_found_at
  FROM deltafront_dead_letters
  GROUP BY table_name, topic;

-- Each of them is in the projection deltafront.dead_letters, which nobody sees without a policy.
CREATE POLICY operators ON deltafront.dead_letters TO operators USING (table_name IS NOT NULL);
