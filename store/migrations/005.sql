-- Schema 5: whether a job's weights were fresh when it began.

ALTER TABLE jobs ADD COLUMN fresh INTEGER NOT NULL DEFAULT 1;  -- 1: nobody had trained them, or the job is from before; 0: somebody had, or it did not say

DROP VIEW history_jobs;
CREATE VIEW history_jobs AS
SELECT id AS job, name, key,
  CASE outcome WHEN 0 THEN 'running' WHEN 1 THEN 'finished' WHEN 2 THEN 'failed'
    WHEN 3 THEN 'lost' END AS outcome,
  started, strftime('%Y-%m-%dT%H:%M:%SZ', started, 'unixepoch') AS started_at,
  nullif(ended, 0) AS ended,
  strftime('%Y-%m-%dT%H:%M:%SZ', nullif(ended, 0), 'unixepoch') AS ended_at,
  CASE budget_kind WHEN 0 THEN 'compute' WHEN 1 THEN 'steps' END AS budget_kind,
  budget_amount, budget_price, seed, learning_rate, policy, steps, compute_seconds, loss,
  validation_loss,
  (SELECT count(*) FROM trials WHERE trials.job = jobs.id) AS trials,
  (SELECT count(*) FROM sites WHERE sites.job = jobs.id) AS sites,
  (SELECT sum(heads) FROM sites WHERE sites.job = jobs.id) AS heads,
  optimizer, fresh
FROM jobs;
