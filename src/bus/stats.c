/* bus/stats.c: the bus in numbers.
 * Must not judge them; bus/health.c does.
 * Called through moonbus.h by users, and by the Lua side. */
#include "bus/internal.h"

void mb_bus_stats(mb_bus *bus, mb_stats *stats) {
  *stats = bus->ctx.stats;
  stats->events_running = mb__pending_live(&bus->group);
  stats->events_parked = mb__consumer_parked(&bus->group) - stats->events_running;
  stats->publish_queued = mb__producer_queued(&bus->ctx);
  stats->lag = mb__consumer_lag(&bus->group);
  stats->assigned_count = (uint32_t)mb__consumer_part_count(&bus->group);
  stats->breakers_open = 0;
  for (size_t i = 0; i < mb__consumer_part_count(&bus->group); i++)
    stats->breakers_open += mb__consumer_part_at(&bus->group, i)->held_at >= 0;
  stats->health = mb_bus_health(bus, NULL, NULL);
}

void mb_bus_lags(mb_bus *bus, mb_lag_fn fn, void *opaque) {
  const mb_part *part;
  for (size_t i = 0; (part = mb__consumer_part_at(&bus->group, i)); i++)
    fn(part->id, mb__part_lag(&bus->group, part), opaque);
}

mb_err mb_bus_measure(mb_bus *bus, mb_measure what, mb_summary *summary) {
  if (!bus->deliver.metrics) return MB_ESTATE;
  if (!summary || what < 0 || what >= MB_MEASURES) return MB_EINVAL;
  const mb_histogram *histogram = &bus->deliver.metrics->of[what];
  double unit = what == MB_BATCH_SIZE ? 1 : 1e-3;
  *summary = (mb_summary){.count = histogram->count,
                          .sum = (double)histogram->sum * unit,
                          .max = (double)histogram->max * unit,
                          .p50 = (double)mb__histogram_quantile(histogram, 0.5) * unit,
                          .p95 = (double)mb__histogram_quantile(histogram, 0.95) * unit,
                          .p99 = (double)mb__histogram_quantile(histogram, 0.99) * unit};
  return MB_OK;
}
