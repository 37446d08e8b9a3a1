#!/bin/bash
# Makes the topics of examples/fulfilment. Needs Kafka's command line tools: docker/compose.yaml runs it in
# the broker's image. Topics that are there stay as they are.
set -euo pipefail
brokers=${BROKERS:-localhost:9092} tools=${KAFKA_TOOLS:-/opt/kafka/bin}

make() {
  "$tools/kafka-topics.sh" --bootstrap-server "$brokers" --create --if-not-exists --topic "$@"
}

# Read by their keys: the last message of a key is enough, so the others may go.
make orders --partitions 3 --config cleanup.policy=compact
make payments --partitions 3 --config cleanup.policy=compact
# Read whole.
make shipments --partitions 3
make unreadable --partitions 1
