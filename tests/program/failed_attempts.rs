//! What an attempt that has failed leaves behind for its request, its client and the others.

use llamatower_sim::{Fault, FaultKind};

use super::queue::{chats, send_chat, until_waiting};
use crate::harness::{Gateway, load, long_stream, within_limit};

#[tokio::test]
async fn a_retried_request_is_not_refused_because_the_queue_is_full_by_now() {
    let (lost, sound) = (long_stream().await, long_stream().await);
    for sim in [&lost, &sound] {
        load(sim).await;
    }
    lost.arm(Fault::new(FaultKind::Hang).for_path("/api/chat"));
    let settings = [
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_QUEUE_MAX_WAITING", "1"),
    ];
    let gateway = Gateway::start_up(&[&lost, &sound], &settings).await;
    let first = send_chat(&gateway).await;
    within_limit("a chat at a server", async {
        while chats(&lost) + chats(&sound) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let is_first_lost = chats(&lost) > 0;
    let second = send_chat(&gateway).await;
    until_waiting(&gateway, (2, 0)).await;
    let (mut unlucky, holder) = match is_first_lost {
        true => (first, second),
        false => (second, first),
    };
    let mut newcomer = send_chat(&gateway).await;
    until_waiting(&gateway, (2, 1)).await;

    lost.kill();
    until_waiting(&gateway, (1, 2)).await;
    drop(holder);
    assert_eq!(unlucky.head().await.status, 200);
    until_waiting(&gateway, (1, 1)).await;
    drop(unlucky);
    assert_eq!(newcomer.head().await.status, 200);
}
