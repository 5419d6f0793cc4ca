//! Rotary embedding as configurations state it, in their older and newer form.
//!
//! Old: `rope_theta` and `rope_scaling` at the top level. New: `rope_parameters`, with an entry for each type of
//! layer where they differ. The formulas are in the IR.

use crate::frontend::facts::Facts;
use trtc_ir::{Diag, RopeFreqs, RopeScaling};

/// Base where a file states none.
pub const DEFAULT_THETA: f64 = 10_000.0;

/// The types of scaling that are understood.
const KNOWN: [&str; 3] = ["default", "linear", "llama3"];

/// The frequencies of layers of `layer_type` (`full_attention`, `sliding_attention`).
pub fn read(facts: &Facts, head_dim: u32, layer_type: &str, default_theta: f64) -> Result<RopeFreqs, Diag> {
    let new = match facts.object("rope_parameters")? {
        Some(p) if p.get(layer_type).is_some() => p.object(layer_type)?,
        other => other,
    };
    let old_theta = facts.positive("rope_theta")?;
    let theta = match &new {
        Some(p) => p.positive("rope_theta")?,
        None => None,
    };
    let theta = theta.or(old_theta).unwrap_or(default_theta);
    if theta < 1.0 {
        return Err(facts.wrong("rope_theta", format!("must be at least 1, found {theta}")));
    }
    let scaling = match new.as_ref() {
        Some(p) => scaling(p)?,
        None => facts.object("rope_scaling")?.as_ref().map_or(Ok(RopeScaling::None), scaling)?,
    };
    Ok(RopeFreqs { dim: rotated(facts, new.as_ref(), head_dim)?, theta, scaling })
}

/// Elements of a head that are rotated.
fn rotated(facts: &Facts, new: Option<&Facts>, head_dim: u32) -> Result<u32, Diag> {
    if let Some(dim) = facts.u32("rotary_dim")? {
        return match dim {
            d if d > 0 && d <= head_dim && d.is_multiple_of(2) => Ok(d),
            d => Err(facts.wrong("rotary_dim", format!("must be even and from 2 to {head_dim}, found {d}"))),
        };
    }
    let holder = new.filter(|p| p.get("partial_rotary_factor").is_some()).unwrap_or(facts);
    let Some(part) = holder.positive("partial_rotary_factor")? else {
        return Ok(head_dim);
    };
    let dim = (f64::from(head_dim) * part).floor() as u32;
    if part > 1.0 || dim == 0 || !dim.is_multiple_of(2) {
        let what =
            format!("is {part}: that rotates {dim} elements of a head of {head_dim}, which must be even");
        return Err(holder.wrong("partial_rotary_factor", what));
    }
    Ok(dim)
}

/// Reads `rope_type` (formerly `type`) and what belongs to it.
pub fn scaling(p: &Facts) -> Result<RopeScaling, Diag> {
    let key = if p.get("rope_type").is_some() { "rope_type" } else { "type" };
    match p.str(key)?.unwrap_or("default") {
        "default" | "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: p.need_positive("factor")? }),
        "llama3" => {
            let (low, high) = (p.need_positive("low_freq_factor")?, p.need_positive("high_freq_factor")?);
            if high <= low {
                let what = format!("must be greater than `low_freq_factor`, which is {low}, found {high}");
                return Err(p.wrong("high_freq_factor", what));
            }
            let original = p.need_positive("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 { factor: p.need_positive("factor")?, low, high, original })
        }
        other => {
            let what = format!("is {other:?}, not one of those supported: {}", KNOWN.join(", "));
            Err(p.unsupported(key, what).help(
                "for sequences within the original context length, remove the scaling from the configuration",
            ))
        }
    }
}

/// What the scaling divides each plain frequency by.
pub fn divisors(freqs: RopeFreqs) -> Vec<f32> {
    let plain = RopeFreqs { scaling: RopeScaling::None, ..freqs };
    plain.values().iter().zip(freqs.values()).map(|(plain, scaled)| plain / scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_ir::Loc;

    fn parse(json: &str) -> Result<RopeFreqs, Diag> {
        let facts = Facts::new(Loc::name("config.json"), serde_json::from_str(json).unwrap());
        read(&facts, 64, "full_attention", DEFAULT_THETA)
    }

    #[test]
    fn old_and_new_form_agree() {
        let old = r#"{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        let new = r#"{"rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}"#;
        let expected = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let freqs = parse(old).unwrap();
        assert_eq!(freqs, RopeFreqs { dim: 64, theta: 5e5, scaling: expected });
        assert_eq!(parse(new).unwrap(), freqs);
    }

    #[test]
    fn absent_null_and_type_spellings() {
        let plain = RopeFreqs { dim: 64, theta: 1e4, scaling: RopeScaling::None };
        assert_eq!(parse("{}").unwrap(), plain);
        assert_eq!(parse(r#"{"rope_scaling": null}"#).unwrap(), plain);
        let linear = parse(r#"{"rope_scaling": {"type": "linear", "factor": 4}}"#).unwrap();
        assert_eq!(linear.scaling, RopeScaling::Linear { factor: 4.0 });
        assert_eq!(parse(r#"{"partial_rotary_factor": 0.5}"#).unwrap().dim, 32);
    }

    #[test]
    fn each_layer_type_has_its_own_entry() {
        let json = r#"{"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}}"#;
        let facts = Facts::new(Loc::Unknown, serde_json::from_str(json).unwrap());
        let full = read(&facts, 64, "full_attention", 1.0).unwrap();
        let sliding = read(&facts, 64, "sliding_attention", 1.0).unwrap();
        assert_eq!((full.theta, full.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
        assert_eq!((sliding.theta, sliding.scaling), (1e4, RopeScaling::None));
    }

    #[test]
    fn errors_name_the_key() {
        let e = parse(r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4}}"#).unwrap_err();
        assert!(
            e.message.contains("`rope_scaling.rope_type` is \"yarn\"") && e.message.contains("llama3"),
            "{e}"
        );
        let e = parse(r#"{"rope_scaling": {"rope_type": "llama3", "factor": 4}}"#).unwrap_err();
        assert!(e.message.contains("`rope_scaling.low_freq_factor` is missing"), "{e}");
        for bad in [
            r#"{"rope_theta": 0}"#,
            r#"{"rope_theta": 0.5}"#,
            r#"{"rope_theta": "x"}"#,
            r#"{"rope_scaling": 3}"#,
            r#"{"rope_scaling": {"type": "linear", "factor": -1}}"#,
            r#"{"partial_rotary_factor": 0.01}"#,
            r#"{"partial_rotary_factor": 2}"#,
            r#"{"rotary_dim": 7}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn divisors_are_one_at_the_top_and_full_at_the_bottom() {
        let scaling = RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 };
        let d = divisors(RopeFreqs { dim: 64, theta: 5e5, scaling });
        assert_eq!((d[0], d[31]), (1.0, 32.0));
        assert!(d.windows(2).all(|w| w[0] <= w[1]));
    }
}
