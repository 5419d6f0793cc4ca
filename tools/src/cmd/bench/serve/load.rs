//! The load: requests are sent when their time has come and as many at once as may be, and each is timed. What is asked
//! and when is given.

use super::answer::{Failed, Kind};
use super::client::Client;
use super::stats::Sample;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A request that is ready to be sent.
pub struct Job {
    pub body: Bytes,
    /// Tokens of its prompt as the client knows them.
    pub prompt_tokens: u64,
}

/// Sends each request at its time after the beginning; later, while `most` are open. Gives what each came to, and the
/// seconds until the end of the last. `done` is told of each end.
pub async fn drive(
    client: &Arc<Client>,
    endpoint: &'static str,
    jobs: Vec<Job>,
    times: &[Duration],
    most: Option<u32>,
    done: impl Fn() + Send + Sync + 'static,
) -> (Vec<Sample>, f64) {
    let places = Arc::new(Semaphore::new(most.map_or(Semaphore::MAX_PERMITS, |n| n as usize)));
    let done = Arc::new(done);
    let begin = Instant::now();
    let mut tasks = Vec::with_capacity(jobs.len());
    for (job, &time) in jobs.into_iter().zip(times) {
        tokio::time::sleep_until((begin + time).into()).await;
        // Requests that wait for a place keep their order, and the next ones are not due before they are sent.
        let place = Arc::clone(&places).acquire_owned().await;
        let (client, done) = (Arc::clone(client), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            let start = begin.elapsed().as_secs_f64();
            let result = client.stream(endpoint, job.body).await;
            let end = match &result {
                Ok(answer) => start + answer.end,
                Err(_) => begin.elapsed().as_secs_f64(),
            };
            drop(place);
            done();
            Sample { start, end, prompt_tokens: job.prompt_tokens, result }
        }));
    }
    let mut samples = Vec::with_capacity(tasks.len());
    for task in tasks {
        samples.push(task.await.unwrap_or_else(|e| {
            let result = Err(Failed::new(Kind::Connection, format!("the request was given up: {e}")));
            Sample { start: 0.0, end: 0.0, prompt_tokens: 0, result }
        }));
    }
    (samples, begin.elapsed().as_secs_f64())
}
