//! What waits, what is refused, and what the engine's thread is given.

use super::*;

fn desk(answers: u64, tokens: u64) -> Arc<Desk> {
    Arc::new(Desk::new(Bounds { answers, tokens, wait: None }, 2))
}

fn request(n: u32) -> Request {
    Request { n, ..Request::new(vec![1; 10]) }
}

fn caller(room: u32) -> Caller {
    Caller { idle: false, inside: 2 - room, room, lowest: None, stats: Stats::default() }
}

fn submit(desk: &Arc<Desk>, n: u32) -> Result<Ticket, ApiError> {
    desk.submit(&"client".into(), vec![request(n)], Instant::now(), false)
}

#[test]
fn what_has_no_place_and_may_not_wait_is_refused_at_once() {
    let desk = desk(1, u64::MAX);
    let first: Vec<Ticket> = (0..3).map(|_| submit(&desk, 1).unwrap()).collect();
    let refused = submit(&desk, 1).unwrap_err();
    assert_eq!((refused.status, refused.retry_after), (429, Some(60)), "nothing is known of the engine");
    assert_eq!(submit(&desk, 4).unwrap_err().status, 400, "it can never be taken");
    assert!(desk.submit(&"client".into(), vec![request(1)], Instant::now(), true).is_ok());
    let mut inbox = Inbox::default();
    assert!(desk.fetch(caller(2), &mut inbox));
    assert_eq!(inbox.jobs.len(), 2);
    drop(first);
    assert_eq!(desk.levels().queued, 0, "who gives up waits no longer");
    assert!(desk.fetch(caller(0), &mut inbox));
    assert!(inbox.cancelled.contains(&0) && inbox.cancelled.contains(&1), "{:?}", inbox.cancelled);
}

#[test]
fn tokens_are_bounded_but_for_one_request() {
    let desk = desk(10, 15);
    let _first = submit(&desk, 1).unwrap();
    assert_eq!(submit(&desk, 1).unwrap_err().status, 429);
    let mut inbox = Inbox::default();
    desk.fetch(caller(2), &mut inbox);
    assert!(desk.submit(&"client".into(), vec![request(1), request(1)], Instant::now(), false).is_ok());
}

#[test]
fn who_would_wait_for_too_long_is_refused_and_others_have_their_turns() {
    let most = Duration::from_millis(300);
    let desk = Arc::new(Desk::new(Bounds { answers: 1000, tokens: u64::MAX, wait: Some(most) }, 2));
    // Nothing is known: the number alone counts.
    let _tickets: Vec<Ticket> = (0..100).map(|_| submit(&desk, 1).unwrap()).collect();
    let mut inbox = Inbox::default();
    desk.fetch(caller(2), &mut inbox);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(10));
        // One answer has ended, and the next one goes in.
        desk.fetch(caller(1), &mut inbox);
    }
    assert_eq!((inbox.jobs.len(), desk.levels().queued), (12, 88));
    let refused = submit(&desk, 1).unwrap_err();
    assert_eq!(refused.status, 429);
    assert!(refused.message.contains("88 answers wait before this one"), "{refused}");
    assert!(refused.retry_after.is_some_and(|s| (1..60).contains(&s)), "{refused}");
    let mine = |client: &str, request| {
        desk.submit(&client.into(), vec![request], Instant::now(), client == "urgent").is_ok()
    };
    assert!(mine("another", request(1)) && mine("urgent", request(1)));
    assert!(mine("client", Request { priority: 1, ..request(1) }));
}

#[test]
fn a_request_with_more_answers_than_places_waits_until_the_engine_is_empty() {
    let desk = desk(10, u64::MAX);
    let _ticket = submit(&desk, 5).unwrap();
    let mut inbox = Inbox::default();
    desk.fetch(caller(1), &mut inbox);
    assert!(inbox.jobs.is_empty());
    desk.fetch(caller(2), &mut inbox);
    assert_eq!(inbox.jobs.len(), 1);
}

#[test]
fn higher_priority_goes_in_though_all_places_are_taken() {
    let desk = desk(10, u64::MAX);
    let urgent = Request { priority: 1, ..request(1) };
    let _tickets = [submit(&desk, 1), desk.submit(&"b".into(), vec![urgent], Instant::now(), false)];
    let mut inbox = Inbox::default();
    desk.fetch(Caller { lowest: Some(1), ..caller(0) }, &mut inbox);
    assert!(inbox.jobs.is_empty());
    desk.fetch(Caller { lowest: Some(0), ..caller(0) }, &mut inbox);
    assert_eq!(inbox.jobs.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
}

#[test]
fn after_the_end_nothing_is_taken_in() {
    let desk = desk(10, u64::MAX);
    let mut ticket = submit(&desk, 1).unwrap();
    assert_eq!(desk.close("it is over"), 1);
    assert_eq!(desk.close("another reason"), 0);
    assert!(!desk.fetch(Caller { idle: true, ..caller(2) }, &mut Inbox::default()));
    let refused = submit(&desk, 1).unwrap_err();
    assert_eq!((refused.status, &*refused.message), (503, "it is over"));
    let mut news = Vec::new();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ticket.receive(&mut news));
    assert_eq!(news, [Update::Failed(ApiError::unavailable("it is over"))]);
}

#[test]
fn a_desk_that_drains_hands_out_what_it_has_and_takes_nothing() {
    let desk = desk(10, u64::MAX);
    let _tickets = [submit(&desk, 1).unwrap(), submit(&desk, 1).unwrap()];
    desk.drain();
    assert_eq!(submit(&desk, 1).unwrap_err().status, 503);
    assert!(desk.is_ending() && desk.closed().is_none());
    let mut inbox = Inbox::default();
    assert!(desk.fetch(Caller { idle: true, ..caller(2) }, &mut inbox));
    assert_eq!(inbox.jobs.len(), 2);
    assert!(desk.fetch(caller(0), &mut inbox), "its answers are not complete");
    assert!(!desk.fetch(Caller { idle: true, ..caller(2) }, &mut inbox));
}
