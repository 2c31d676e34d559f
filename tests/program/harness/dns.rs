//! A small authoritative DNS server whose responses a test can change.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::within_limit;

/// The server's answer to every address query.
#[derive(Clone, Debug)]
pub(crate) enum Zone {
    /// These addresses, with a TTL of 0 s.
    Addresses(Vec<Ipv4Addr>),
    /// This response code without addresses.
    Refusal(ResponseCode),
    /// No response.
    Silence,
}

/// The server; dropping it stops the server.
#[derive(Debug)]
pub(crate) struct Dns {
    address: SocketAddr,
    zone: watch::Sender<Zone>,
    asked: watch::Receiver<u64>,
    serving: JoinHandle<()>,
}

impl Dns {
    pub(crate) async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, seen) = watch::channel(zone);
        let (count, asked) = watch::channel(0);
        let serving = tokio::spawn(serve(socket, seen, count));
        Self {
            address,
            zone,
            asked,
            serving,
        }
    }

    pub(crate) fn with_addresses(addresses: &[IpAddr]) -> Zone {
        let v4 = addresses.iter().map(|address| match address {
            IpAddr::V4(v4) => *v4,
            IpAddr::V6(_) => panic!("the test has no IPv6"),
        });
        Zone::Addresses(v4.collect())
    }

    /// The value of `LLAMATOWER_DNS_SERVERS`.
    pub(crate) fn setting(&self) -> String {
        self.address.to_string()
    }

    /// Changes the response.
    pub(crate) fn change(&self, zone: Zone) {
        self.zone.send_replace(zone);
    }

    /// Waits for this many more queries.
    pub(crate) async fn queried_again(&mut self, times: u64) {
        let goal = *self.asked.borrow() + times;
        let asked = self.asked.wait_for(|asked| *asked >= goal);
        within_limit("an address query", asked).await.unwrap();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, zone: watch::Receiver<Zone>, count: watch::Sender<u64>) {
    let socket = Arc::new(socket);
    let mut packet = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        let question = Message::from_vec(&packet[..length]).unwrap();
        let answer = answer(&question, &zone.borrow());
        if let Some(answer) = answer {
            socket.send_to(&answer, from).await.unwrap();
        }
        count.send_modify(|count| *count += 1);
    }
}

fn answer(question: &Message, zone: &Zone) -> Option<Vec<u8>> {
    let query = question.queries.first().unwrap().clone();
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.authoritative = true;
    match zone {
        Zone::Silence => return None,
        Zone::Refusal(code) => answer.metadata.response_code = *code,
        Zone::Addresses(addresses) if query.query_type() == RecordType::A => {
            let records = addresses
                .iter()
                .map(|ip| Record::from_rdata(query.name().clone(), 0, RData::A((*ip).into())));
            answer.add_answers(records);
        }
        Zone::Addresses(_) => {}
    }
    answer.add_query(query);
    Some(answer.to_vec().unwrap())
}
