//! What can go wrong, and whose move it is.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::source::Problem;

/// What to do about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// It passes, or librdkafka tries again by itself.
    Retry,
    /// The client is of no use any more: another one.
    Renew,
    /// The place where we read is no place of the partition.
    Lost,
    /// Wait for the operator, with the remedy.
    Stop(&'static str),
}

/// One table from error to response.
#[must_use]
pub fn response_to(error: &KafkaError) -> Response {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::MessageConsumptionFatal(_) => Response::Renew,
        error => match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset) => Response::Lost,
            Some(Code::TopicAuthorizationFailed) => {
                Response::Stop("let the user read the topic (an ACL for Read and Describe)")
            }
            Some(Code::ClusterAuthorizationFailed) => Response::Stop("let the user use the cluster (its ACLs)"),
            Some(Code::InvalidTopic) => Response::Stop("check the topic's name"),
            Some(Code::UnsupportedCompressionType | Code::NotImplemented) => {
                Response::Stop("its messages are compressed in a way that this build can't read")
            }
            Some(Code::BadMessage | Code::InvalidMessage) => {
                Response::Stop("a message is damaged in the broker's log; see the broker's log")
            }
            _ => Response::Retry,
        },
    }
}

/// An error in words, with what it is about.
#[must_use]
pub fn describe(error: &KafkaError, brokers: &str) -> String {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve) => {
            format!("no broker answers at {brokers}")
        }
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
            format!("the brokers at {brokers} refuse the user or the password")
        }
        Some(Code::SSL) => format!("there is no TLS with {brokers} that both sides take"),
        Some(code) => format!("{brokers}: {code}"),
        None => error.to_string(),
    }
}

/// What is wrong before anything is read, and what to do.
#[must_use]
pub fn problem(table: &str, error: &KafkaError, brokers: &str) -> Problem {
    let remedy = match response_to(error) {
        Response::Stop(remedy) => remedy,
        _ => match error {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => {
                "see librdkafka's CONFIGURATION.md for its properties; they are written 'name.with.dots' = 'value'"
            }
            _ => {
                "start the brokers, or check host, port and security ('security.protocol', 'sasl.mechanism', 'ssl.ca.location'); `check --offline` asks nobody"
            }
        },
    };
    let what = match error {
        KafkaError::ClientConfig(_, what, name, _) => format!("`{name}`: {what}"),
        KafkaError::ClientCreation(what) => what.clone(),
        error => describe(error, brokers),
    };
    Problem { table: Some(table.to_owned()), what: redacted(&what), remedy: remedy.to_owned() }
}

/// What librdkafka says, without a password that it repeats.
#[must_use]
pub fn redacted(text: &str) -> String {
    let lower = text.to_lowercase();
    if ["password", "secret"].iter().any(|word| lower.contains(word)) && text.contains("value") {
        "what it is told of a password or a secret is not right".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RDKafkaErrorCode as Code;

    fn consumed(code: Code) -> KafkaError {
        KafkaError::MessageConsumption(code)
    }

    #[test]
    fn each_error_has_whose_move_it_is() {
        let stops = |code: Code, word: &str| {
            let response = response_to(&consumed(code));
            assert!(matches!(response, Response::Stop(remedy) if remedy.contains(word)), "{code}: {response:?}");
        };
        stops(Code::TopicAuthorizationFailed, "read the topic");
        stops(Code::ClusterAuthorizationFailed, "use the cluster");
        stops(Code::InvalidTopic, "name");
        stops(Code::UnsupportedCompressionType, "compressed");
        stops(Code::NotImplemented, "compressed");
        stops(Code::BadMessage, "damaged");
        stops(Code::InvalidMessage, "damaged");
        for code in [Code::AutoOffsetReset, Code::OffsetOutOfRange, Code::NoOffset] {
            assert_eq!(response_to(&consumed(code)), Response::Lost, "{code}");
        }
        for code in [Code::AllBrokersDown, Code::Authentication, Code::UnknownTopicOrPartition] {
            assert_eq!(response_to(&consumed(code)), Response::Retry, "{code}");
        }
        assert_eq!(response_to(&KafkaError::MessageConsumptionFatal(Code::Fatal)), Response::Renew);
        assert_eq!(response_to(&KafkaError::Canceled), Response::Retry);
    }

    #[test]
    fn errors_say_what_an_operator_can_look_at() {
        let described = |code: Code| describe(&consumed(code), "b:9092");
        for code in [Code::AllBrokersDown, Code::BrokerTransportFailure, Code::OperationTimedOut, Code::Resolve] {
            assert_eq!(described(code), "no broker answers at b:9092");
        }
        for code in [Code::Authentication, Code::SaslAuthenticationFailed] {
            assert_eq!(described(code), "the brokers at b:9092 refuse the user or the password");
        }
        assert_eq!(described(Code::SSL), "there is no TLS with b:9092 that both sides take");
        assert!(described(Code::UnknownTopicOrPartition).starts_with("b:9092: "));
        assert!(!describe(&KafkaError::Canceled, "b:9092").is_empty());
    }

    #[test]
    fn problems_name_the_property_or_the_brokers_and_the_remedy_fits() {
        let remedy = |error: &KafkaError| problem("t", error, "b:9092").remedy;
        assert!(remedy(&consumed(Code::InvalidTopic)).contains("topic's name"));
        assert!(remedy(&consumed(Code::AllBrokersDown)).contains("start the brokers"));
        let created = KafkaError::ClientCreation("no such mechanism".to_owned());
        assert!(remedy(&created).contains("CONFIGURATION.md"));
        assert_eq!(problem("t", &created, "b:9092").what, "no such mechanism");
    }

    #[test]
    fn a_password_that_is_repeated_is_left_out_and_one_that_is_only_named_is_not() {
        let repeated = r#"Configuration property "SASL.Password" cannot be set to value "hunter2""#;
        for text in [repeated, "client secret: bad value x"] {
            assert_eq!(redacted(text), "what it is told of a password or a secret is not right");
        }
        for text in ["no password is set", "a bad value of linger.ms"] {
            assert_eq!(redacted(text), text);
        }
    }
}
