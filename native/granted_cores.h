// How many processors this process may keep busy.
#pragma once

#include <cstddef>
#include <string>

namespace pruneonce {

// Those it may run on (sched_setaffinity), or fewer where its control groups have a quota of processor time: the quota
// in processors, rounded up. At least 1.
std::size_t granted_cores();

// The processors that control groups grant, 0 where they set no limit: of version 2 (cpu.max) and 1 (cpu.cfs_quota_us),
// of the process's own group and those it lies in. groups: as /proc/self/cgroup; root: as /sys/fs/cgroup. A container
// often sees its group as the root, under another path than `groups` tells: what is not there sets no limit.
std::size_t quota_cores(const std::string& groups, const std::string& root);

}  // namespace pruneonce
