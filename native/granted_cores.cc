#include "granted_cores.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace pruneonce {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

// quota / period, in processors; both are microseconds.
double ratio(double quota, double period) { return quota > 0 && period > 0 ? quota / period : kUnlimited; }

// "max 100000", or "150000 100000"
double limit_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period ? ratio(quota, period) : kUnlimited;
}

// -1: none
double limit_v1(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_file >> quota && period_file >> period ? ratio(quota, period) : kUnlimited;
}

// The least limit of a group and of those that it lies in, up to the hierarchy's root.
template <class Limit>
double least(const std::string& root, std::string group, Limit limit) {
  double result = limit(root);
  while (group.size() > 1) {
    result = std::min(result, limit(root + group));
    group.resize(group.rfind('/'));
  }
  return result;
}

bool names(const std::string& controllers, const std::string& wanted) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');)
    if (name == wanted) return true;
  return false;
}

std::size_t cores_of_affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<std::size_t>(CPU_COUNT(&set));
#endif
  return std::thread::hardware_concurrency();
}

}  // namespace

std::size_t quota_cores(const std::string& groups, const std::string& root) {
  double limit = kUnlimited;
  std::ifstream file(groups);
  for (std::string line; std::getline(file, line);) {  // "4:cpu,cpuacct:/a/b", or "0::/a/b" for version 2
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos || line[second + 1] != '/') continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (controllers.empty()) {
      limit = std::min({limit, least(root, group, limit_v2), least(root + "/unified", group, limit_v2)});
    } else if (names(controllers, "cpu")) {
      limit =
          std::min({limit, least(root + "/cpu", group, limit_v1), least(root + "/" + controllers, group, limit_v1)});
    }
  }
  return limit < 1e6 ? static_cast<std::size_t>(std::ceil(limit)) : 0;
}

std::size_t granted_cores() {
  const std::size_t cores = std::max<std::size_t>(1, cores_of_affinity());
  const std::size_t quota = quota_cores("/proc/self/cgroup", "/sys/fs/cgroup");
  return quota > 0 ? std::min(cores, quota) : cores;
}

}  // namespace pruneonce
