//! Answers a prompt and prints the text as it comes: `cargo run --example generate -- ENGINE PROMPT`.

use std::io::Write;
use trtc_runtime::{Engine, Error, Event, LoadOptions, Request};

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (args.next(), args.next()) else {
        return Err(Error::user("an engine file and a prompt are missing").help("generate ENGINE PROMPT"));
    };
    let mut engine = Engine::load(path, LoadOptions::default())?;
    let prompt = engine.encode(&prompt)?;
    for event in engine.generate([Request::new(prompt)]) {
        if let Event::Token { text, .. } | Event::Done { text, .. } = event? {
            print!("{text}");
            std::io::stdout().flush().ok();
        }
    }
    println!();
    Ok(())
}
