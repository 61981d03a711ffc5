/* A libnvidia-ml.so.1 whose machine is a text file, named by $FAKE_NVML and read anew at every call, so that a test can change it
 * while a step runs. One thing a line:
 *
 *   init CODE                     what nvmlInit returns
 *   driver TEXT                   the driver's version
 *   cuda NUMBER                   1000 * major + 10 * minor; a negative one is an error's code
 *   gpu UUID NAME TOTAL FREE UTIL [error=CODE] [mig] [pid=PID:BYTES]...
 *   mig PARENT UUID NAME TOTAL FREE [pid=PID:BYTES]...       PARENT is the GPU's number
 *
 * Bytes and percents are plain numbers; "_" in a name is a space; TOTAL -1 is a device that has no memory to tell of.
 * Source of the functions and structures: NVIDIA's NVML API reference.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 32
#define NOT_SUPPORTED 3
#define INVALID_ARGUMENT 2
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define UNINITIALIZED 1

typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct {
    char uuid[96], name[96];
    long long total, free;
    unsigned util;
    int error, is_mig_mode, parent, processes;
    process_t process[MOST];
} device_t;

static struct {
    int init, cuda, gpus, migs;
    char driver[96];
    device_t gpu[MOST], mig[MOST];
} machine;
static int opened = 0;

static void read_device(device_t *device, char *rest) {
    char *word, *state = NULL;
    int number = 0;
    for (word = strtok_r(rest, " \n", &state); word; word = strtok_r(NULL, " \n", &state), number++) {
        if (number == 0) snprintf(device->uuid, sizeof device->uuid, "%s", word);
        else if (number == 1) {
            snprintf(device->name, sizeof device->name, "%s", word);
            for (char *c = device->name; *c; c++) if (*c == '_') *c = ' ';
        } else if (number == 2) device->total = atoll(word);
        else if (number == 3) device->free = atoll(word);
        else if (!strncmp(word, "error=", 6)) device->error = atoi(word + 6);
        else if (!strcmp(word, "mig")) device->is_mig_mode = 1;
        else if (!strncmp(word, "pid=", 4) && device->processes < MOST) {
            process_t *process = &device->process[device->processes++];
            sscanf(word + 4, "%u:%llu", &process->pid, &process->used);
        } else device->util = (unsigned)atoi(word);
    }
}

static void look(void) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[4096];
    memset(&machine, 0, sizeof machine);
    strcpy(machine.driver, "550.54.14");
    machine.cuda = 12040;
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "init ", 5)) machine.init = atoi(line + 5);
        else if (!strncmp(line, "driver ", 7)) sscanf(line + 7, "%95s", machine.driver);
        else if (!strncmp(line, "cuda ", 5)) machine.cuda = atoi(line + 5);
        else if (!strncmp(line, "gpu ", 4) && machine.gpus < MOST) read_device(&machine.gpu[machine.gpus++], line + 4);
        else if (!strncmp(line, "mig ", 4) && machine.migs < MOST) {
            char *rest;
            machine.mig[machine.migs].parent = (int)strtol(line + 4, &rest, 10);
            read_device(&machine.mig[machine.migs++], rest);
        }
    }
    fclose(file);
}

/* Handles: 1 + number for a GPU, 1001 + number for an instance. */
static int find(void *handle, device_t **device) {
    uintptr_t number = (uintptr_t)handle;
    if (!opened) return UNINITIALIZED;
    look();
    if (number >= 1001 && number < 1001 + (unsigned)machine.migs) {
        *device = &machine.mig[number - 1001];
        return machine.gpu[(*device)->parent].error;
    }
    if (number < 1 || number > (unsigned)machine.gpus) return 15; /* it was there when the handle was made */
    *device = &machine.gpu[number - 1];
    return (*device)->error;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; look(); if (!machine.init) opened++; return machine.init; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!opened) return UNINITIALIZED; opened--; return 0; }
const char *nvmlErrorString(int code) { static char text[40]; snprintf(text, sizeof text, "fake error %d", code); return text; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    if (!opened) return UNINITIALIZED;
    look();
    snprintf(text, length, "%s", machine.driver);
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    if (!opened) return UNINITIALIZED;
    look();
    if (machine.cuda < 0) return -machine.cuda;
    *version = machine.cuda;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) { if (!opened) return UNINITIALIZED; look(); *count = (unsigned)machine.gpus; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (!opened) return UNINITIALIZED;
    look();
    if (index >= (unsigned)machine.gpus) return INVALID_ARGUMENT;
    *handle = (void *)(uintptr_t)(index + 1);
    return machine.gpu[index].error;
}

#define WITH_DEVICE device_t *device; int code = find(handle, &device); if (code) return code

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) { WITH_DEVICE; snprintf(text, length, "%s", device->uuid); return 0; }
int nvmlDeviceGetName(void *handle, char *text, unsigned length) { WITH_DEVICE; snprintf(text, length, "%s", device->name); return 0; }

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    WITH_DEVICE;
    if (device->total < 0) return NOT_SUPPORTED;
    memory->total = (unsigned long long)device->total;
    memory->free = (unsigned long long)device->free;
    memory->used = memory->total - memory->free;
    return 0;
}

int nvmlDeviceGetUtilizationRates(void *handle, rates_t *rates) {
    WITH_DEVICE;
    if ((uintptr_t)handle >= 1001) return NOT_SUPPORTED;
    rates->gpu = device->util;
    rates->memory = 0;
    return 0;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    WITH_DEVICE;
    *current = *pending = (unsigned)device->is_mig_mode;
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { WITH_DEVICE; *count = 7; return 0; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    unsigned seen = 0;
    WITH_DEVICE;
    for (int number = 0; number < machine.migs; number++)
        if (machine.mig[number].parent == (int)((uintptr_t)handle - 1) && seen++ == index) {
            *instance = (void *)(uintptr_t)(1001 + number);
            return 0;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *processes) {
    WITH_DEVICE;
    unsigned there = (unsigned)device->processes;
    int fits = processes != NULL && *count >= there;
    *count = there;
    if (!there) return 0;
    if (!fits) return INSUFFICIENT_SIZE;
    memcpy(processes, device->process, there * sizeof *processes);
    return 0;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *processes) {
    WITH_DEVICE;
    (void)processes;
    *count = 0;
    return 0;
}
