-- Schema 1 of attune's store: jobs, their attention sites, what was measured in each window, what
-- was tried and what came of it.
--
-- Times are Unix times in seconds. Blobs are arrays without a header: f32 is little-endian
-- IEEE 754 binary32, u32 little-endian, u8 one byte; [a × b] is row-major, b varying fastest.
-- Heads are numbered through the whole job, site after site in the order of sites.position.
-- Unsigned 64-bit numbers are kept as SQLite's signed ones with the same bits.

PRAGMA application_id = 0x6174746e; -- "attn"

-- Training runs; one row each, brought up to date while the run lasts.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,          -- counts up from 1: the newest job has the highest
  key TEXT NOT NULL,               -- what the run calls itself when it reconnects
  name TEXT NOT NULL,              -- for people
  budget_kind INTEGER NOT NULL,    -- 0 compute, 1 steps
  budget_amount REAL NOT NULL,     -- processor seconds of training (compute) or optimiser steps
  budget_price REAL NOT NULL,      -- nats per untuned window's compute; for budgets in steps
  seed INTEGER NOT NULL,           -- the trainer's own
  learning_rate REAL NOT NULL,     -- at its highest; 0 when unknown
  started REAL NOT NULL,           -- Unix time
  ended REAL NOT NULL,             -- Unix time; 0 while it runs
  outcome INTEGER NOT NULL,        -- 0 running, 1 finished, 2 failed, 3 lost (fell silent)
  steps INTEGER NOT NULL,          -- optimiser steps done
  compute_seconds REAL NOT NULL,   -- processor seconds of training, evaluation left out
  loss REAL,                       -- last smoothed training loss, nats; NULL before the first
  validation_loss REAL             -- as the trainer reported it, nats; NULL when it did not
) STRICT;

CREATE INDEX jobs_by_key ON jobs (key, id);

-- The attention modules of each job's model.
CREATE TABLE sites (
  job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,       -- from the model's input to its output, from 0
  name TEXT NOT NULL,              -- as the trainer calls it
  kind INTEGER NOT NULL,           -- 0 self-attention, 1 cross-attention
  causal INTEGER NOT NULL,         -- 1: a query sees only keys up to its own position; else 0
  heads INTEGER NOT NULL,          -- number of heads
  head_width INTEGER NOT NULL,     -- dimensions of one head
  context INTEGER NOT NULL,        -- keys that a query can see at most
  PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

-- What the meter read in each window of a job. Heads inactive at the window's end hold zeros.
CREATE TABLE windows (
  job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  window INTEGER NOT NULL,         -- of the job, from 0
  first_step INTEGER NOT NULL,     -- the step after the last one of the window before
  last_step INTEGER NOT NULL,      -- optimiser step of the last observation
  observations INTEGER NOT NULL,   -- how many the reading was made from
  start_compute REAL NOT NULL,     -- compute_seconds of the job when the window began
  end_compute REAL NOT NULL,       -- compute_seconds of the job at the last observation
  loss REAL NOT NULL,              -- smoothed, at the window's end, nats
  loss_noise REAL NOT NULL,        -- standard error of loss
  attention_share REAL NOT NULL,   -- share of the step's time spent in attention, 0 to 1
  imbalance REAL NOT NULL,         -- of the job; 0: as the baseline
  active BLOB NOT NULL,            -- u8 [heads]: 1 active, 0 skipped; at the window's end
  metrics BLOB NOT NULL,           -- f32 [heads × 7]: entropy, largest logit, top weight, first
                                   -- token mass, output norm, importance, redundancy
  profile BLOB NOT NULL,           -- f32 [heads × 16]: share of attention by relative distance
  mean BLOB NOT NULL,              -- f32 [heads]: mean relative distance, 0 to 1
  deviation BLOB NOT NULL,         -- f32 [heads]: standard deviation of the relative distance
  difference BLOB NOT NULL,        -- f32 [heads]: mean over bins of |a - b| / b, b the baseline
  divergence BLOB NOT NULL,        -- f32 [heads]: Jensen-Shannon divergence to the baseline, nats
  PRIMARY KEY (job, window)
) STRICT;

-- Decisions and what came of them, one at a window's end. The id is also the action's on the wire.
CREATE TABLE trials (
  id INTEGER PRIMARY KEY,          -- counts up from 1 over all jobs
  job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  window INTEGER NOT NULL,         -- at whose end was decided
  step INTEGER NOT NULL,           -- optimiser step at which was decided
  created REAL NOT NULL,           -- Unix time at which the trial was first written
  loss REAL NOT NULL,              -- smoothed, at the window's end, nats
  imbalance REAL NOT NULL,         -- of the window
  active_heads INTEGER NOT NULL,   -- ones in setting_active, here to be listed quickly
  decider TEXT NOT NULL,           -- the policy's name, 'governor' or 'hand'
  why TEXT NOT NULL,               -- one line for a person
  policy_version INTEGER NOT NULL, -- of the network that decided; 0 for rules
  log_probability REAL NOT NULL,   -- of the action under the policy; 0 for deterministic ones
  ack_status INTEGER NOT NULL,     -- 0 nothing sent, 1 pending, 2 applied, 3 rejected, 4 expired
  ack_step INTEGER NOT NULL,       -- optimiser step at which it was applied, refused or expired
  ack_why TEXT NOT NULL,           -- the trainer's reason to refuse
  reward REAL,                     -- of the window that followed, nats; NULL until it closed
  site_offsets BLOB NOT NULL,      -- u32 [sites + 1]: first head of each site, then all heads
  tokens BLOB NOT NULL,            -- f32 [heads × features]: what the policy saw; the features'
                                   -- names in their order are in env/state.h
  mask_scale BLOB NOT NULL,        -- u8 [heads × 5]: 1 where the scale choice was open, else 0
  mask_count BLOB NOT NULL,        -- u8 [sites × 5]: 1 where the count change was open, else 0
  action_scale BLOB,               -- u8 [heads]: scale / 4, / 1.5, kept, × 1.5, × 4 as 0..4;
                                   -- NULL, as the next two, when no policy chose
  action_count BLOB,               -- u8 [sites]: heads halved, - 1, kept, + 1, doubled as 0..4
  action_score BLOB,               -- f32 [heads]: where the count changes, the highest stay
  setting_scale BLOB NOT NULL,     -- f32 [heads]: factor on the logits that the trainer is to have
  setting_gain BLOB NOT NULL,      -- f32 [heads]: factor on the head's output
  setting_active BLOB NOT NULL,    -- u8 [heads]: 1 computed, 0 skipped
  CHECK ((action_scale IS NULL) = (action_count IS NULL)),
  CHECK ((action_scale IS NULL) = (action_score IS NULL))
) STRICT;

CREATE INDEX trials_by_job ON trials (job, id);
CREATE INDEX trials_to_learn ON trials (id) WHERE action_scale IS NOT NULL AND reward IS NOT NULL;

-- Stretches of steps in which a head attends abnormally, as last found in each job.
CREATE TABLE anomalies (
  job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,       -- in the job's list, from 0: by site, head, first step
  site INTEGER NOT NULL,           -- sites.position
  head INTEGER NOT NULL,           -- within its site, from 0
  first_step INTEGER NOT NULL,     -- optimiser step at which the stretch begins
  last_step INTEGER NOT NULL,      -- optimiser step of the last window in the stretch
  severity REAL NOT NULL,          -- largest excess over the kind's threshold, in its units
  kind INTEGER NOT NULL,           -- 0 saturated, 1 diffuse, 2 dormant, 3 drifting
  PRIMARY KEY (job, position)
) STRICT, WITHOUT ROWID;

-- Versions of what decides.
CREATE TABLE policies (
  name TEXT NOT NULL,              -- as in trials.decider
  version INTEGER NOT NULL,        -- as in trials.policy_version
  created REAL NOT NULL,           -- Unix time
  path TEXT NOT NULL,              -- of the checkpoint; empty for rules
  trials INTEGER NOT NULL,         -- learned from
  provenance TEXT NOT NULL,        -- one line: data, seed, agreement, loss
  PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
