//! One request and its answer: past the rules, to the stack and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, response};

use super::RequestBody;
use super::gauges::{Gauges, InFlight};
use super::inbox::Inbox;
use super::intake::{Intake, Open};
use super::origin;
use super::reply::Asked;
use super::request::{Answer, Rules, Verdict};
use super::request_head::Arrival;
use crate::http1::decode::{Decoder, Malformed};

/// Whom a connection is with; an extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// The other end of a TCP connection.
    Ip(SocketAddr),
    /// A process on this machine.
    Unix,
}

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) rules: Arc<Rules>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) peer: PeerAddr,
    pub(super) on_loopback: bool,
    pub(super) body_timeout: Option<Duration>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) asked: Asked,
    pub(super) keeps_alive: bool,
    /// The page of this origin may read the answer.
    admitted: Option<HeaderValue>,
    /// Only what the stack answers is counted.
    _in_flight: Option<InFlight>,
}

/// Where a request goes.
pub(super) enum Way {
    Stack(Request<RequestBody>),
    /// It has its answer.
    Back(Answer),
}

impl Terms {
    /// Begins an exchange. What has not come of the request's body is the intake's.
    pub(super) fn begin(
        &self,
        arrival: Box<Arrival>,
        connection: &Waker,
    ) -> (Exchange, Way, Intake) {
        let Arrival {
            mut head,
            data,
            decoder,
            malformed,
            keeps_alive,
            awaits_continue,
        } = *arrival;
        let asked = Asked {
            version: head.version,
            is_head: head.method == Method::HEAD,
        };
        let draining = self.gauges.is_draining();
        let (admitted, in_flight, way, intake) =
            match self.rules.judge(&mut head, self.on_loopback, draining) {
                Verdict::Answer(answer) => {
                    let intake = match malformed {
                        Some(_) => Intake::UNREAD,
                        None => Intake::discard(decoder, awaits_continue),
                    };
                    (None, None, Way::Back(answer), intake)
                }
                Verdict::Pass(admitted) => {
                    head.extensions.insert(self.peer);
                    let in_flight = InFlight::new(&self.gauges);
                    let (body, intake) = if decoder.is_finished() {
                        (RequestBody::whole(data), Intake::Whole)
                    } else {
                        let left = match &decoder {
                            Decoder::Length(left) => Some(left + data.len() as u64),
                            _ => None,
                        };
                        let inbox = Inbox::new(data, connection);
                        let body = RequestBody::coming(inbox.clone(), left, self.body_timeout);
                        (body, coming(inbox, decoder, malformed, awaits_continue))
                    };
                    let request = Request::from_parts(head, body);
                    (admitted, Some(in_flight), Way::Stack(request), intake)
                }
            };
        let exchange = Exchange {
            asked,
            keeps_alive,
            admitted,
            _in_flight: in_flight,
        };
        (exchange, way, intake)
    }

    /// What the edge adds to the head of an answer.
    pub(super) fn finish_head(&self, exchange: &mut Exchange, head: &mut response::Parts) {
        if let Some(origin) = exchange.admitted.take() {
            origin::admit(&mut head.headers, origin);
        }
        if self.gauges.is_draining() {
            // The next request shall come by another connection, to another process.
            let close = HeaderValue::from_static("close");
            head.headers.insert(CONNECTION, close);
        }
    }
}

/// The intake of a body that has not come whole.
fn coming(
    inbox: Arc<Inbox>,
    decoder: Decoder,
    malformed: Option<Malformed>,
    awaits_continue: bool,
) -> Intake {
    if let Some(malformed) = malformed {
        inbox.fail(malformed.into());
        return Intake::UNREAD;
    }
    Intake::Open(Open {
        decoder,
        inbox,
        awaits_continue,
        is_answered: false,
    })
}
