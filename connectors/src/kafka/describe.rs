//! What a topic is: its id, its partitions, where they begin and end.

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rdsys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::client::Context;

/// What tells a topic from another one of the same name. Brokers older than 2.8 have none.
pub type TopicId = (i64, i64);

/// A topic as its brokers have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id, where brokers have one.
    pub id: Option<TopicId>,
    /// Its partitions, ascending.
    pub partitions: Vec<i32>,
}

/// Asks for a topic.
///
/// # Errors
/// When nobody answers in time, or there is no such topic.
pub fn describe(consumer: &BaseConsumer<Context>, topic: &str, timeout: Duration) -> KafkaResult<Topic> {
    match describe_topics(consumer, topic, timeout) {
        // A broker that does not know the question.
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion)) => {
            let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
            let Some(found) = metadata.topics().first() else {
                return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
            };
            if let Some(error) = found.error() {
                return Err(KafkaError::MetadataFetch(error.into()));
            }
            let mut partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
            partitions.sort_unstable();
            Ok(Topic { id: None, partitions })
        }
        described => described,
    }
}

/// The safe interface has no question that tells a topic's id, and without it a topic that was
/// deleted and made again looks like one that has gone on.
#[expect(unsafe_code, reason = "librdkafka's DescribeTopics has no safe wrapper")]
fn describe_topics(consumer: &BaseConsumer<Context>, topic: &str, timeout: Duration) -> KafkaResult<Topic> {
    let failed = |code: rdsys::rd_kafka_resp_err_t| KafkaError::MetadataFetch(code.into());
    let name = CString::new(topic).map_err(|_| KafkaError::MetadataFetch(RDKafkaErrorCode::InvalidTopic))?;
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    // SAFETY: `client` lives as long as `consumer`. Each thing that is made is given back once, after
    // the last use of what it lends, and the event's answer is read before the event is given back.
    unsafe {
        let queue = rdsys::rd_kafka_queue_new(client);
        let mut names = [name.as_ptr()];
        let topics = rdsys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options =
            rdsys::rd_kafka_AdminOptions_new(client, rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        rdsys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        rdsys::rd_kafka_DescribeTopics(client, topics, options, queue);
        let event = rdsys::rd_kafka_queue_poll(queue, millis.saturating_add(1000));
        let answer = if event.is_null() {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut))
        } else if rdsys::rd_kafka_event_error(event) != rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            Err(failed(rdsys::rd_kafka_event_error(event)))
        } else {
            let result = rdsys::rd_kafka_event_DescribeTopics_result(event);
            let mut count = 0;
            let described = rdsys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            if count == 0 {
                Err(failed(rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART))
            } else {
                read(*described)
            }
        };
        if !event.is_null() {
            rdsys::rd_kafka_event_destroy(event);
        }
        rdsys::rd_kafka_AdminOptions_destroy(options);
        rdsys::rd_kafka_TopicCollection_destroy(topics);
        rdsys::rd_kafka_queue_destroy(queue);
        answer
    }
}

/// # Safety
/// The description must be alive.
#[expect(unsafe_code, reason = "as above")]
unsafe fn read(described: *const rdsys::rd_kafka_TopicDescription_t) -> KafkaResult<Topic> {
    // SAFETY: all that is asked for belongs to the description, which is alive.
    unsafe {
        let error = rdsys::rd_kafka_TopicDescription_error(described);
        if !error.is_null() {
            let code = rdsys::rd_kafka_error_code(error);
            if code != rdsys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(KafkaError::MetadataFetch(code.into()));
            }
        }
        let id = rdsys::rd_kafka_TopicDescription_topic_id(described);
        let id = (!id.is_null())
            .then(|| (rdsys::rd_kafka_Uuid_most_significant_bits(id), rdsys::rd_kafka_Uuid_least_significant_bits(id)))
            .filter(|id| *id != (0, 0));
        let mut count = 0;
        let infos = rdsys::rd_kafka_TopicDescription_partitions(described, &raw mut count);
        let mut partitions: Vec<i32> =
            (0..count).map(|place| rdsys::rd_kafka_TopicPartitionInfo_partition(*infos.add(place))).collect();
        partitions.sort_unstable();
        Ok(Topic { id, partitions })
    }
}

/// What a librdkafka is compiled in.
#[must_use]
#[expect(unsafe_code, reason = "a text that librdkafka never changes")]
pub fn version() -> String {
    // SAFETY: the text is static.
    unsafe { CStr::from_ptr(rdsys::rd_kafka_version_str()) }.to_string_lossy().into_owned()
}
