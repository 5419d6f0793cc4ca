//! Argument groups that several commands share, and the parsers of their values.

use crate::render::Failure;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use trtc_runtime::{CacheSize, DeviceChoice, Error, Sampling};

/// An engine and the device that executes its kernels.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// Engine file, as `trtc build` writes it
    pub engine: PathBuf,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where an engine runs.
#[derive(Args, Debug, Clone)]
pub struct PlaceArgs {
    /// Where to run: auto (what the engine was built for), host, cuda:0, emulator
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub device: DeviceChoice,
    /// Threads of the host device and the emulator; all cores if left out
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// The same, with what serving takes besides.
#[derive(Args, Debug)]
pub struct EngineArgs {
    #[command(flatten)]
    pub on: DeviceArgs,
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// How much memory the KV cache has.
#[derive(Args, Debug, Clone)]
pub struct MemoryArgs {
    /// Memory for the KV cache, such as 512M or 2G; what a full batch of the longest sequences needs if left out
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub kv_memory: Option<u64>,
    /// Fill a GPU up to this part of all its memory: what weights, activations and other programs leave is for the KV
    /// cache. Such as 0.9; a little must be left for the driver
    #[arg(long, value_name = "F", value_parser = fraction, conflicts_with = "kv_memory")]
    pub gpu_memory_fraction: Option<f64>,
}

impl MemoryArgs {
    /// The size of the cache for an engine that was built for `target`.
    pub fn cache(&self, target: &str) -> Result<CacheSize, Error> {
        match (self.kv_memory, self.gpu_memory_fraction) {
            (Some(bytes), _) => Ok(CacheSize::Bytes(bytes)),
            (None, None) => Ok(CacheSize::Auto),
            (None, Some(_)) if target == "host" => {
                Err(Error::user("--gpu-memory-fraction is for a GPU, and the engine was built for the host")
                    .help("give --kv-memory, or leave both out"))
            }
            (None, Some(fraction)) => Ok(CacheSize::Fraction(fraction)),
        }
    }
}

/// How tokens are chosen. Nothing given means: as the command's help says.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 takes the best token; above, the higher the more varied
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Only the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<u32>,
    /// Only the most likely tokens that sum to this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Only tokens with at least this fraction of the best one's probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Divides (or multiplies, if negative) the logits of tokens already seen; 1 is off
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens already in the answer
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted once for each time that a token is already in the answer
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Added to the logit of a token, such as 42=-100; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same tokens
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// What is given, over the defaults of the command.
    ///
    /// Fails if a filter is given that can have no effect.
    pub fn over(&self, base: Sampling) -> Result<Sampling, Failure> {
        let s = Sampling {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(base.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.or(base.seed),
        };
        if s.temperature == 0.0 {
            let filters = [
                ("--top-k", self.top_k.is_some_and(|k| k > 0)),
                ("--top-p", self.top_p.is_some_and(|p| p < 1.0)),
                ("--min-p", self.min_p.is_some_and(|p| p > 0.0)),
            ];
            if let Some((name, _)) = filters.iter().find(|(_, given)| *given) {
                return Err(Failure::user(format!(
                    "{name} has no effect at temperature 0, which takes the best token"
                ))
                .help(format!("give --temperature above 0, or leave {name} out")));
            }
        }
        Ok(s)
    }
}

/// A device's name.
pub fn device(text: &str) -> Result<DeviceChoice, String> {
    text.parse().map_err(|e: trtc_runtime::Error| e.help.unwrap_or(e.message))
}

/// Seconds, above 0: `30`, `0.5`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_never(text)? {
        Some(time) => Ok(time),
        None => Err("a number of seconds above 0, such as 30".to_owned()),
    }
}

/// The same, and 0 for never.
pub fn seconds_or_never(text: &str) -> Result<Option<Duration>, String> {
    // A year is as good as never, and what is longer does not fit everywhere.
    let number = text.parse::<f64>().ok().filter(|s| (0.0..=3.2e7).contains(s));
    let number = number.ok_or_else(|| "a number of seconds, such as 30".to_owned())?;
    Ok((number > 0.0).then(|| Duration::from_secs_f64(number)))
}

/// `512M`, `2G`, `1073741824`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let n: u64 = digits.parse().map_err(|_| "a number of bytes, with K, M or G if wanted".to_owned())?;
    n.checked_mul(1 << shift).ok_or_else(|| "the number is too large".to_owned())
}

/// `0.9`.
pub fn fraction(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|f| (0.0..=1.0).contains(f) && *f > 0.0);
    number.ok_or_else(|| "a number above 0 and at most 1, such as 0.9".to_owned())
}

/// `0.5%`: as a fraction, above 0.
#[cfg(feature = "compiler")]
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|n| n.trim_end().parse::<f64>().ok());
    let found = number.filter(|n| *n > 0.0 && *n <= 100.0).map(|n| n / 100.0);
    found.ok_or_else(|| "a percentage above 0, such as 0.5%".to_owned())
}

/// `42=-100`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let want = || "a token's id, an equals sign and a number, such as 42=-100".to_owned();
    let (id, bias) = text.split_once('=').ok_or_else(want)?;
    Ok((id.trim().parse().map_err(|_| want())?, bias.trim().parse().map_err(|_| want())?))
}

/// `1,2,3`: the ids of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Ids(pub Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Ids, String> {
        let one =
            |id: &str| id.trim().parse().map_err(|_| format!("'{id}' is no token id; give ids as 1,2,3"));
        text.split(',').map(one).collect::<Result<_, _>>().map(Ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts() {
        assert_eq!(bytes("17"), Ok(17));
        assert_eq!(bytes("2G"), Ok(2 << 30));
        assert_eq!(bytes("512m"), Ok(512 << 20));
        assert!(bytes("M").is_err());
        assert!(bytes("").is_err());
        assert!(bytes("99999999999G").is_err());
        assert!(bytes("1é").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(
            (seconds_or_never("0"), seconds_or_never("30")),
            (Ok(None), Ok(Some(Duration::from_secs(30))))
        );
        assert!(seconds("0").is_err());
        for text in ["-1", "nan", "inf", "1e30", "", "5s"] {
            assert!(seconds_or_never(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fractions() {
        assert_eq!((fraction("0.9"), fraction("1")), (Ok(0.9), Ok(1.0)));
        for text in ["0", "-0.5", "1.01", "90%", "nan", "inf", ""] {
            assert!(fraction(text).is_err(), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "compiler")]
    fn percentages() {
        assert_eq!((percent("0.5%"), percent("100 %")), (Ok(0.005), Ok(1.0)));
        for text in ["0.5", "0%", "-1%", "nan%", "inf%", "101%", "%", ""] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn biases() {
        assert_eq!(bias("42=-1.5"), Ok((42, -1.5)));
        assert!(bias("42").is_err());
        assert!(bias("-1=2").is_err());
    }

    #[test]
    fn ids() {
        assert_eq!("1, 2,3".parse(), Ok(Ids(vec![1, 2, 3])));
        assert!("".parse::<Ids>().is_err());
        assert!("1,,2".parse::<Ids>().is_err());
    }

    #[test]
    fn filters_without_temperature_are_contradictions() {
        let args = SamplingArgs { top_p: Some(0.5), ..SamplingArgs::default() };
        assert!(args.over(Sampling::greedy()).is_err());
        assert!(args.over(Sampling::default()).is_ok());
        let off = SamplingArgs { top_p: Some(1.0), top_k: Some(0), ..SamplingArgs::default() };
        assert!(off.over(Sampling::greedy()).is_ok());
    }

    #[test]
    fn what_is_given_wins_over_the_model() {
        let model = Sampling { temperature: 0.6, top_p: 0.9, ..Sampling::default() };
        let args = SamplingArgs { temperature: Some(0.2), ..SamplingArgs::default() };
        let s = args.over(model).expect("no contradiction");
        assert_eq!((s.temperature, s.top_p), (0.2, 0.9));
    }

    #[test]
    fn devices() {
        assert_eq!(device("cuda:1"), Ok(DeviceChoice::Cuda(1)));
        assert!(device("gpu").is_err_and(|e| e.contains("cuda:0")));
    }
}
