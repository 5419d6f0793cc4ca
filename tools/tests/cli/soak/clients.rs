//! One client of many: asks, compares, leaves, dawdles, sends nonsense; what must never be is an error.

use super::cases::{Answer, Case};
use super::http::{Open, request, send_raw};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::RwLock;
use std::time::{Duration, Instant};

/// The place of a server, and whether it was told to end.
#[derive(Clone, Copy)]
pub struct Place {
    pub address: SocketAddr,
    /// From when on it may turn requests away.
    pub ending: Option<Instant>,
}

/// What all clients share.
pub struct World {
    pub cases: Vec<Case>,
    /// The answer to each case, alone.
    pub alone: Vec<Answer>,
    pub wrong: Vec<(&'static str, Vec<u8>, u16)>,
    pub place: RwLock<Place>,
    pub until: Instant,
}

/// Numbers that look random (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn ms(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

/// How often each thing happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// What a client does next, so many times of a hundred.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// Reads an answer and compares it.
    Compare,
    /// The same, slowly.
    Slowly,
    /// Leaves within a stream.
    LeaveStream,
    /// Leaves before the answer.
    LeaveEarly,
    /// Reads nothing of much.
    Stall,
    /// Gives the server little time.
    Hurry,
    /// Sends what is wrong.
    Wrong,
    /// Sends half of a request, or no HTTP.
    Half,
}

const ACTS: [(u64, Act); 8] = [
    (58, Act::Compare),
    (8, Act::Slowly),
    (9, Act::LeaveStream),
    (6, Act::LeaveEarly),
    (1, Act::Stall),
    (4, Act::Hurry),
    (10, Act::Wrong),
    (4, Act::Half),
];

/// A request that was sent this long before the server was told to end has reached it.
const ARRIVED: Duration = Duration::from_millis(500);

impl World {
    /// Asks until the time is over; the error says what was wrong with an answer.
    pub fn client(&self, seed: u64) -> std::result::Result<Counts, String> {
        let (mut random, mut counts) = (Random(seed), Counts::new());
        while Instant::now() < self.until {
            let place = *self.place.read().unwrap();
            let (mut roll, begun) = (random.below(100), Instant::now());
            let mut which = ACTS.iter();
            let act = loop {
                match which.next() {
                    Some((weight, act)) if roll < *weight => break *act,
                    Some((weight, _)) => roll -= weight,
                    None => return Err("the acts are less than a hundred".to_owned()),
                }
            };
            let which = random.below(self.cases.len() as u64) as usize;
            let outcome = self.act(act, which, place.address, &mut random);
            // It may have been told to end meanwhile.
            let now = *self.place.read().unwrap();
            let turned_away = match now.ending {
                _ if now.address != place.address => true,
                Some(ending) => begun + ARRIVED > ending,
                None => false,
            };
            match outcome {
                Ok(what) => *counts.entry(what).or_default() += 1,
                Err(Trouble::Refused(_)) if turned_away => {
                    *counts.entry("turned away at the end").or_default() += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Trouble::Refused(why) | Trouble::Wrong(why)) => {
                    let case = &self.cases[which];
                    return Err(format!("{why}\nseed {seed}, {} {}", case.path, case.body));
                }
            }
        }
        Ok(counts)
    }

    fn act(
        &self,
        act: Act,
        which: usize,
        address: SocketAddr,
        random: &mut Random,
    ) -> std::result::Result<&'static str, Trouble> {
        let case = &self.cases[which];
        match act {
            Act::Compare | Act::Slowly => {
                let Some(open) = admitted(send_raw(address, &case.bytes(&[])), random)? else {
                    return Ok("sent away with 429");
                };
                let slow = act == Act::Slowly;
                let pause = || {
                    if slow {
                        std::thread::sleep(random.ms(40))
                    }
                };
                // Who was let in has the whole answer, whatever becomes of the server.
                let answer = Answer::read(case, open, pause).map_err(|e| Trouble::Wrong(e.to_string()))?;
                if answer != self.alone[which] {
                    let alone = &self.alone[which];
                    return Err(Trouble::Wrong(format!("another answer:\n{answer:?}\nalone:\n{alone:?}")));
                }
                Ok(if slow { "compared, read slowly" } else { "compared" })
            }
            Act::LeaveStream => {
                let bytes = case.bytes(&[("stream", true.into())]);
                let Some(mut open) = admitted(send_raw(address, &bytes), random)? else {
                    return Ok("sent away with 429");
                };
                for _ in 0..random.below(12) {
                    open.event(&mut 0).map_err(|e| Trouble::Wrong(e.to_string()))?;
                }
                Ok("left within a stream")
            }
            Act::LeaveEarly => {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&case.bytes(&[]))?;
                std::thread::sleep(random.ms(60));
                Ok("left before an answer")
            }
            Act::Stall => {
                let more = [("stream", true.into()), ("n", json!(3)), ("max_tokens", json!(60))];
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&case.bytes(&more))?;
                std::thread::sleep(Duration::from_secs(3));
                Ok("read nothing for three seconds")
            }
            Act::Hurry => {
                let open = send_raw(address, &case.bytes(&[("timeout", json!(0.03))]))?;
                if !matches!(open.status, 200 | 429 | 503 | 504) {
                    return Err(Trouble::Wrong(format!("a status {} for one in a hurry", open.status)));
                }
                let text = open.try_whole()?.text;
                Ok(if text.contains("timeout_error") { "too late" } else { "in a hurry and in time" })
            }
            Act::Wrong => {
                let (path, body, want) = &self.wrong[random.below(self.wrong.len() as u64) as usize];
                let mut bytes = request("POST", path, &[], &" ".repeat(body.len()));
                let head = bytes.len() - body.len();
                bytes[head..].copy_from_slice(body);
                let reply = send_raw(address, &bytes)?.try_whole()?;
                match reply.status {
                    503 => Err(Trouble::Refused(reply.text)),
                    status if status == *want => Ok("told that it is wrong"),
                    status => Err(Trouble::Wrong(format!("{status} and not {want}: {path} {}", reply.text))),
                }
            }
            Act::Half => {
                let mut bytes = case.bytes(&[]);
                match random.below(3) {
                    0 => bytes = (0..300).map(|_| random.below(256) as u8).collect(),
                    _ => bytes.truncate(random.below(bytes.len() as u64) as usize),
                }
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&bytes)?;
                std::thread::sleep(random.ms(100));
                Ok("sent half, or no HTTP")
            }
        }
    }
}

/// Why something did not come to its end.
enum Trouble {
    /// No answer began: right of a server that is ending.
    Refused(String),
    /// What must never be.
    Wrong(String),
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Trouble {
        Trouble::Refused(format!("no answer: {e}"))
    }
}

/// An answer that has begun; none if there was no room, which is waited for a little.
fn admitted(open: Result<Open>, random: &mut Random) -> std::result::Result<Option<Open>, Trouble> {
    let open = open?;
    match open.status {
        200 => Ok(Some(open)),
        429 => {
            let after: Option<Value> = open
                .headers
                .iter()
                .find(|(name, _)| name == "retry-after")
                .and_then(|(_, value)| serde_json::from_str(value).ok());
            if !after.is_some_and(|a| a.as_u64().is_some_and(|s| (1..=60).contains(&s))) {
                return Err(Trouble::Wrong("429 without the seconds to wait".to_owned()));
            }
            std::thread::sleep(random.ms(200));
            Ok(None)
        }
        503 => Err(Trouble::Refused(open.try_whole()?.text)),
        status => Err(Trouble::Wrong(format!("{status}: {}", open.try_whole()?.text))),
    }
}
