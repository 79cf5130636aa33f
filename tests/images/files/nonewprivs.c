// Installed setuid root: prints 0 when the runtime lets it gain privileges, the caller's uid when no_new_privs forbids it.
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", (int)geteuid());
	return 0;
}
