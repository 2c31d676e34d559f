//! Faults of the listener, as clients see them.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use llamatower_sim::{FaultKind, Sim};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn connections_are_reset_for_the_time_that_was_asked_however_many_arrive() {
    let sim = Sim::builder().start().await.unwrap();
    let address = sim.url().trim_start_matches("http://").parse().unwrap();
    assert!(answers(address).await);
    sim.arm(FaultKind::ResetAccepts { ms: 300 });
    assert!(!answers(address).await);
    timeout(Duration::from_secs(5), async {
        // Shorter pauses than the time of the fault.
        while !answers(address).await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the fault ends");
}

async fn answers(address: SocketAddr) -> bool {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        socket
            .write_all(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut status = [0; 12];
        socket.read_exact(&mut status).await?;
        std::io::Result::Ok(status)
    };
    exchange
        .await
        .is_ok_and(|status| &status == b"HTTP/1.1 200")
}
