//! Plans: which linears of a model a quantising precision leaves as they are. Calibration writes one, a build obeys it.
//!
//! A plan lists every *product* that the precision would quantise: a linear, or several that fusion makes one (query, key
//! and value; gate and up), which are kept or quantised together, for linears of different types do not fuse. The list
//! is whole, with shapes, so that a plan of another model is noticed. To `quantize` the kept ones are rules of its
//! recipe. Not here: reading and writing the file, measuring, choosing, and the plan of an engine's memory.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use trtc_ir::{Diag, Dim, Elem, Loc, Module, Source, Weight};
use trtc_passes::quantize::{Rule, matrices};
use trtc_passes::{Precision, Recipe};

use crate::{BuildOptions, Phase, module_after};

/// Version of the file's form.
pub const VERSION: u32 = 1;

/// A plan, as its JSON file has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// Architecture of the model.
    pub arch: String,
    /// The precision that it is for.
    pub precision: String,
    /// What was measured when it was made.
    pub measured: Measured,
    /// Every product that the precision would quantise.
    pub products: Vec<Product>,
}

/// Losses of perplexity against the engine that quantises no linear, as fractions: 0.01 is one per cent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Tokens of the text on which products were measured one by one.
    pub tokens: u64,
    /// Other tokens of it, on which the losses below were measured.
    pub held_out: u64,
    /// The bound that was asked for.
    pub bound: f64,
    /// Loss with every product quantised.
    pub loss_of_all: f64,
    /// Loss with this plan.
    pub loss: f64,
    /// Standard error of that loss.
    pub error: f64,
}

impl Measured {
    /// Nothing was measured.
    pub const NONE: Measured =
        Measured { tokens: 0, held_out: 0, bound: 0.0, loss_of_all: 0.0, loss: 0.0, error: 0.0 };
}

/// Linears that one kernel multiplies, and what quantising them costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// Its linears.
    pub linears: Vec<Linear>,
    /// Mean divergence (Kullback-Leibler) of the next token's distribution if this product alone is quantised, in nats a
    /// token; `None` if it was not measured.
    pub divergence: Option<f64>,
    /// True if it stays as it is.
    pub keep: bool,
}

/// A linear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Symbol of its weight: `l0.attn.q`.
    pub name: String,
    /// Rows of the weight.
    pub outputs: u64,
    /// Columns of the weight.
    pub inputs: u64,
}

impl Product {
    /// Elements of its weights.
    pub fn elements(&self) -> u64 {
        // A file may hold any numbers; those of a model do not saturate.
        self.linears.iter().fold(0, |n: u64, l| n.saturating_add(l.outputs.saturating_mul(l.inputs)))
    }

    /// Names of its linears, for people: `l0.attn.q + l0.attn.k`.
    pub fn title(&self) -> String {
        self.linears.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(" + ")
    }
}

impl Plan {
    /// Reads a plan; `path` is for error messages only.
    ///
    /// # Errors
    /// The text is not JSON, its version is another, a field is missing or unknown, a linear is listed twice, or a number
    /// is none.
    pub fn parse(path: &str, text: &str) -> Result<Plan, Diag> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let again = "make it with `trtc calibrate`";
        let at = |e: &serde_json::Error| match (u32::try_from(e.line()), u32::try_from(e.column())) {
            (Ok(line), Ok(col)) if line > 0 => Loc::File { path: path.to_owned(), line, col },
            _ => Loc::name(path),
        };
        // Another version may have other fields, and is told first.
        let head: Head = serde_json::from_str(text)
            .map_err(|e| Diag::user(&at(&e), format!("is not a plan: {e}")).help(again))?;
        let here = Loc::name(path);
        if head.version != VERSION {
            let found =
                format!("is a plan of version {}, and this trtc reads version {VERSION}", head.version);
            return Err(Diag::user(&here, found).help(again));
        }
        let plan: Plan = serde_json::from_str(text)
            .map_err(|e| Diag::user(&at(&e), format!("is not a plan: {e}")).help(again))?;
        let mut seen = BTreeSet::new();
        for linear in plan.products.iter().flat_map(|p| &p.linears) {
            if !seen.insert(linear.name.as_str()) {
                return Err(Diag::user(&here, format!("the plan lists {:?} twice", linear.name)).help(again));
            }
        }
        if let Some(empty) = plan.products.iter().position(|p| p.linears.is_empty()) {
            return Err(
                Diag::user(&here, format!("product {} of the plan has no linear", empty + 1)).help(again)
            );
        }
        Ok(plan)
    }

    /// The plan as text: a product a line.
    ///
    /// # Errors
    /// A number is not finite.
    pub fn print(&self) -> Result<String, Diag> {
        let bug = |e: serde_json::Error| Diag::bug(&Loc::name("plan"), e.to_string());
        let head = serde_json::to_string(&Plan { products: Vec::new(), ..self.clone() }).map_err(bug)?;
        let head = head.strip_suffix("]}").unwrap_or(&head);
        let rows: Vec<String> =
            self.products.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(bug)?;
        Ok(format!("{head}\n{}\n]}}\n", rows.join(",\n")))
    }

    /// Names of the linears that are kept.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.products.iter().filter(|p| p.keep).flat_map(|p| &p.linears).map(|l| l.name.as_str())
    }

    /// What is kept as rules for `quantize`, after checking that the plan is for this model, as imported, and precision.
    ///
    /// # Errors
    /// The plan is for another precision or architecture, names a linear that the model has not, or has not all of the model's.
    pub(crate) fn rules(&self, module: &Module, precision: &Precision) -> Result<Vec<Rule>, Diag> {
        let here = Loc::name("--plan");
        let other = |found: String| {
            Diag::user(&here, found)
                .help("a plan is for one model and one precision: make one for these with `trtc calibrate`")
        };
        if self.precision != precision.name {
            return Err(other(format!(
                "the plan is for precision {}, and {} is asked for",
                self.precision, precision.name
            )));
        }
        if self.arch != module.arch {
            return Err(other(format!(
                "the plan is for architecture {:?}, and the model's is {:?}",
                self.arch, module.arch
            )));
        }
        let mut left: BTreeMap<&str, Linear> = floats(module).map(|l| (l.0, l.1)).collect();
        for linear in self.products.iter().flat_map(|p| &p.linears) {
            match left.remove(linear.name.as_str()) {
                None => {
                    return Err(other(format!(
                        "the plan names {:?}, and the model has no such linear",
                        linear.name
                    )));
                }
                Some(found) if found != *linear => {
                    return Err(other(format!(
                        "the plan is of another model: its {} is {}x{}, and the model's is {}x{}",
                        linear.name, linear.outputs, linear.inputs, found.outputs, found.inputs
                    )));
                }
                Some(_) => {}
            }
        }
        if let Some(name) = left.keys().next() {
            return Err(other(format!("the plan is of another model: it has no {name}")));
        }
        let scheme = precision.unquantised();
        Ok(self.kept().map(|name| Rule { pattern: name.to_owned(), scheme, loc: here.clone() }).collect())
    }
}

/// The linears of a module whose weights are not quantised yet, by name.
fn floats(module: &Module) -> impl Iterator<Item = (&str, Linear)> {
    matrices(module).into_iter().map(|id| &module.weights[id]).filter_map(|w| {
        let (true, [Dim::Const(outputs), Dim::Const(inputs)]) = (w.ty.elem.plain().is_some(), &w.ty.dims[..])
        else {
            return None;
        };
        Some((w.name.as_str(), Linear { name: w.name.clone(), outputs: *outputs, inputs: *inputs }))
    })
}

/// The products of `model` that a build with these options quantises, in the model's order: none measured, none kept.
///
/// # Errors
/// As a build's up to the phase `fuse`; and the precision quantises nothing.
pub fn products(model: &Path, options: &BuildOptions) -> Result<Vec<Product>, Diag> {
    // What a recipe says of single weights is no property of the model, and a plan lists them all.
    let options = BuildOptions { plan: None, recipe: None, ..options.clone() };
    let imported = module_after(model, Phase::Import, &options)?;
    let quantised = module_after(model, Phase::Quantize, &options)?;
    let fused = module_after(model, Phase::Fuse, &options)?;
    let stored = |name: &str| quantised.weights.iter().find(|(_, w)| w.name == name).map(|(_, w)| w);
    let home: BTreeMap<&str, &str> =
        fused.weights.iter().flat_map(|(_, w)| tensors(w).map(|t| (t, w.name.as_str()))).collect();
    let mut products: Vec<(Option<&str>, Product)> = Vec::new();
    for (name, linear) in floats(&imported) {
        let Some(weight) = stored(name).filter(|w| matches!(w.ty.elem, Elem::Quant(_))) else { continue };
        let home = tensors(weight).next().and_then(|t| home.get(t).copied());
        match products.iter_mut().find(|(other, _)| home.is_some() && *other == home) {
            Some((_, product)) => product.linears.push(linear),
            None => products.push((home, Product { linears: vec![linear], divergence: None, keep: false })),
        }
    }
    if products.is_empty() {
        return Err(Diag::user(
            &Loc::name(model.display().to_string()),
            format!("precision {} quantises no linear of the model", options.precision),
        )
        .help("choose fp8, int8 or int4, and a checkpoint that is not quantised to it already"));
    }
    Ok(products.into_iter().map(|(_, product)| product).collect())
}

/// Names of the checkpoint's tensors that a weight is made of.
fn tensors(weight: &Weight) -> impl Iterator<Item = &str> {
    let tensors = match &weight.source {
        Source::Tensors(tensors) => &tensors[..],
        Source::Rope(_) => &[],
    };
    tensors.iter().map(|t| t.name.as_str())
}

/// The recipe of a build: the plan's rules, then the recipe's own, of which later ones win.
pub(crate) fn recipe(options: &BuildOptions, module: &Module, precision: &Precision) -> Result<Recipe, Diag> {
    let mut rules = match &options.plan {
        Some(plan) => plan.rules(module, precision)?,
        None => Vec::new(),
    };
    if let Some(text) = &options.recipe {
        rules.extend(Recipe::parse("--recipe", text)?.rules);
    }
    Ok(Recipe { rules })
}
