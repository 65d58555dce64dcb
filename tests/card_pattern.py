"""The whole card of a pipeline on the demo experts as regular expressions, by section."""

CELL = r"(`[\w -]+` [+−]\d+\.\d\d(, )?)+|none"
INTERVAL = r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]"
WHOLE = rf"""---
language:
- en
library_name: skmoecbm
metrics:
(- \w+
)+pipeline_tag: image-classification
tags:
- skmoecbm
- concept-bottleneck
- interpretability
- mixture-of-experts
model-index:
- name: A concept bottleneck model
  results:
  - task:
      type: image-classification
    dataset:
      name: drawn lesions
      type: drawn-lesions
      split: test
      args:
        group_disjoint: true
        n: 42
        n_groups: 42
    metrics:
(    - type: \w+
      value: \d\.\d+
      name: [\w -]+
      args:
        low: \d\.\d+
        high: \d\.\d+
        confidence: 0\.95
        n_bootstrap: 20
)+---

%%
# A concept bottleneck model

> \*\*Not a medical device\.\*\* For research and teaching: [\w ,]+\.
>
> \*\*Notice:\*\* synthetic demonstration encoders, trained on drawings, not for clinical use

No licence stated\.

%%
## What it is

A mixture of 2 concept bottlenecks \(`general`, `structures`\)\. [^#|<]+

Experts are mixed by: `uniform` \([^)]+\)\.

It takes images [^#|<]+

%%
## Intended use

[^#|<]+

### Out of scope

[^#|<]+

%%
## Classes

\| class \|( training rows \|)? share in training \|
\|---\|(---:\|)+
(\| `[a-z]+-like` \|( \d+ \|)? \d+\.\d % \|
)+
%%
(## Training data

(- [\w ,]+
)+
)?## Concepts

From the concept bank `lesions` \(author `[\w ]+`, licence `[\w-]+`\)\.

[^#|<]+
(
### Expert `(general|structures)`

\d+ concepts; the unit is one standard deviation\.

\| class \| speaks for it \| speaks against it \|
\|---\|---\|---\|
(\| `[a-z]+-like` \| ({CELL}) \| ({CELL}) \|
)+){{2}}
%%
## Experts

[^#|<]+

\| expert \| backbone \| revision \| weights \(SHA-256\) \| [^<]+ \|
\|(---\|){{7}}
(\| `\w+` \| `demo-\w+` \| none \| `[0-9a-f]{{12}}` \| `64 × 64 [\w, ]+` \| `\w+` \| [\w, -]+ \|
)+
%%
## Metrics

### `drawn lesions`, split `test`

Measured on 42 rows; in brackets 95 % [\w ]+ 20 resamples of whole rows\. As its author [\w ,]+\.

%%
\| metric \| value \| what it is \|
\|---\|---\|---\|
(\| [\w -]+ \| {INTERVAL} \| [\w ,;]+ \|
)+
%%
\| class \| rows \| recall \| AUROC \|
\|---\|---:\|---\|---\|
(\| `[a-z]+-like` \| \d+ \| {INTERVAL} \| {INTERVAL} \|
)+
((- [\w ,.:;()'-]+
)+
)?%%
## Audit

No audit was given\. [^#|<]+

%%
## Limits

(- [\w ,.:;'-]+
)+
%%
## How to load

It needs Python 3\.11 and skmoecbm 0\.1, or newer\. In a checkout of skmoecbm: `pip install \.`\. Then

```python
import skmoecbm

model = skmoecbm\.load\("path/to/this/folder"\)
probabilities = model\.predict_proba\(\["photo\.jpg"\]\)  # a column for each of model\.classes_
skmoecbm\.explain\(model, \["photo\.jpg"\]\)\.plot\(\)
```

[\w ,]+\.

%%
## Versions

Saved in format version \d+ with (`[\w-]+ [\w.+-]+`(, )?)+\.

%%
## Citation

```bibtex
@software{{skmoecbm,
  title = {{[\w: ]+}},
  author = {{{{[\w ]+}}}},
  version = {{[\w.+-]+}},
  year = \{{2026\}}
}}
```

It builds on:

- Yang et al\., [^#|<\n]+
- Jacobs et al\., [^#|<\n]+
"""  # noqa: E501

SECTIONS = WHOLE.split("%%\n")
