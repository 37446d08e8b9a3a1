#!/bin/bash
# Plays the payment provider and the warehouse of examples/fulfilment: listens to the topic `orders`, which
# Deltafront keeps as the shop's database has it, and answers with payments and shipment events.
#
# Needs bash and Kafka's command line tools: docker/compose.yaml runs it in the broker's image. A restart
# goes on where its consumer group stands.
set -euo pipefail
brokers=${BROKERS:-localhost:9092} tools=${KAFKA_TOOLS:-/opt/kafka/bin}
export TZ=UTC

# Lines of a key, a tab and a value become messages; the value NULL becomes none. The tool tries three times,
# which a broker's restart outlasts, and then drops the message.
produce() {
  "$tools/kafka-console-producer.sh" --bootstrap-server "$brokers" --topic "$1" \
    --message-send-max-retries 1000000 --property parse.key=true --property null.marker=NULL > /dev/null
}
exec {payments}> >(produce payments) {shipments}> >(produce shipments)

# moment NAME SECONDS: sets NAME to the time in so many seconds.
moment() {
  printf -v "$1" '%(%Y-%m-%dT%H:%M:%SZ)T' $((EPOCHSECONDS + $2))
}

pay() {
  local state=$1
  # Some cards are refused.
  [ $((id % 20)) != 7 ] || state=failed
  printf '%s\t{"state":"%s","amount":%s}\n' "$id" "$state" "$total" >&"$payments"
}

declare -A due
events=0
ship() {
  local now message
  moment now 0
  # A minute from when it was packed is too short for some.
  [ -n "${due[$id]:-}" ] || moment "due[$id]" 60
  message="{\"order_id\":$id,\"kind\":\"$1\",\"happened_at\":\"$now\",\"due_at\":\"${due[$id]}\"}"
  # Now and then one arrives broken, for the dead letters.
  events=$((events + 1))
  [ $((events % 50)) != 0 ] || message=${message:0:30}
  printf '%s\t%s\n' "$id" "$message" >&"$shipments"
}

answer() {
  case $status in
    open) pay authorised ;;
    paid) pay captured ;;
    packed) pay captured && ship packed ;;
    shipped) pay captured && ship handed_over ;;
    delivered) pay captured && ship delivered ;;
  esac
}

# Keys are {"id":7}, values {"id":7,"status":"open","total":12.50}, or nothing when the order is gone.
while IFS=$'\t' read -r key value; do
  [[ $key =~ ([0-9]+) ]] || continue
  id=${BASH_REMATCH[1]}
  if [[ $value =~ \"status\":\"([a-z]+)\".*\"total\":([0-9.]+) ]]; then
    status=${BASH_REMATCH[1]} total=${BASH_REMATCH[2]}
    answer
  elif [ "$value" = null ]; then
    printf '%s\tNULL\n' "$id" >&"$payments"
    unset "due[$id]"
  fi
done < <("$tools/kafka-console-consumer.sh" --bootstrap-server "$brokers" --topic orders --group warehouse \
  --from-beginning --isolation-level read_committed --property print.key=true)
